"""The requests of a step's flat batch in columns, and where their tokens lie in the KV cache.

Made by `input_batch.py`; kernels read the columns, plain torch takes single `RequestSpan`s from it as from a tuple.
Invariant: the requests lie in the flat batch one after the other, so `query_starts` follow from `num_queries`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
import numpy.typing as npt

from engine_core.model.request_span import RequestSpan

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class StepSpans(Sequence[RequestSpan]):
    """One span for each scheduled request, in batch order."""

    num_queries: Int32Array
    """`[num_spans]`."""
    num_computed_tokens: Int32Array
    """`[num_spans]`: tokens in the cache before this step."""
    rows: Int64Array
    """`[num_spans]`: of the block table."""
    block_table: Int32Array
    """`[num_rows, most blocks of a row]`: the blocks of all requests; a row may hold more than the step needs."""
    block_size: int

    @classmethod
    def of(cls, spans: Sequence[RequestSpan]) -> "StepSpans":
        """The columns of any spans that lie in a flat batch one after the other."""
        if isinstance(spans, StepSpans):
            return spans
        block_table = np.zeros((len(spans), max(len(span.block_ids) for span in spans)), dtype=np.int32)
        for row, span in zip(block_table, spans, strict=True):
            row[: len(span.block_ids)] = span.block_ids
        return cls(
            np.array([span.num_queries for span in spans], dtype=np.int32),
            np.array([span.num_computed_tokens for span in spans], dtype=np.int32),
            np.arange(len(spans)),
            block_table,
            spans[0].block_size,
        )

    @cached_property
    def are_single(self) -> bool:
        """Whether each request computes one token."""
        return bool((self.num_queries == 1).all())

    @cached_property
    def query_starts(self) -> Int64Array:
        """`[num_spans]`: the first of each request's rows in the flat batch."""
        return np.arange(len(self)) if self.are_single else np.cumsum(self.num_queries) - self.num_queries

    @cached_property
    def num_tokens(self) -> Int32Array:
        """`[num_spans]`: of each request, this step's included."""
        return self.num_computed_tokens + self.num_queries

    @property
    def positions(self) -> Int64Array:
        """`[tokens of the flat batch]`: of each token in its request."""
        if self.are_single:
            return self.num_computed_tokens.astype(np.int64)
        shifts = np.repeat(self.num_computed_tokens - self.query_starts, self.num_queries)
        return shifts + np.arange(len(shifts))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> RequestSpan: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RequestSpan]: ...
    def __getitem__(self, index: int | slice) -> RequestSpan | Sequence[RequestSpan]:
        if isinstance(index, slice):
            return [self[item] for item in range(*index.indices(len(self)))]
        num_blocks = -(-int(self.num_tokens[index]) // self.block_size)
        return RequestSpan(
            int(self.query_starts[index]),
            int(self.num_queries[index]),
            int(self.num_computed_tokens[index]),
            self.block_table[self.rows[index], :num_blocks],
            self.block_size,
        )

    def __iter__(self) -> Iterator[RequestSpan]:
        return (self[index] for index in range(len(self)))
