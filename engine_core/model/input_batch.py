"""The runner's memory between steps: tokens, block table and sampling parameters of every request it was given.

`model_runner.py` applies each `SchedulerOutput` here and gets the step's flat batch: the scheduled tokens of all
requests one after the other. Sampled tokens are appended by the runner, so a decode step names no tokens.
Invariant: `num_tokens` tokens of a request are known, and its block table covers every scheduled one.
Next: `attention.py` reads the spans, `sampler.py` the sampling rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from engine_core.model.attention import RequestSpan
from engine_core.outputs import NewRequestData, RequestKey, ScheduledRequest, SchedulerOutput
from ipc.messages import Task
from ipc.sampling_params import SamplingParams

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


class GrowingArray:
    """An int32 array with amortized appends."""

    def __init__(self, values: Sequence[int]) -> None:
        self._length = len(values)
        self._storage: Int32Array = np.empty(max(16, len(values) + 32), dtype=np.int32)
        self._storage[: self._length] = values

    def __len__(self) -> int:
        return self._length

    @property
    def values(self) -> Int32Array:
        """A view of the content, valid until the next append."""
        return self._storage[: self._length]

    def extend(self, values: Sequence[int]) -> None:
        """Append all of `values`."""
        end = self._length + len(values)
        if end > len(self._storage):
            storage = np.empty(max(end, 2 * len(self._storage)), dtype=np.int32)
            storage[: self._length] = self.values
            self._storage = storage
        self._storage[self._length : end] = values
        self._length = end


class CachedRequest:
    """What the runner keeps of one request."""

    __slots__ = (
        "block_table",
        "hidden_sum",
        "key",
        "num_pooled",
        "num_prompt_tokens",
        "sampling_params",
        "task",
        "token_ids",
    )

    def __init__(self, data: NewRequestData) -> None:
        self.key = data.key
        self.token_ids = GrowingArray(data.token_ids)
        self.block_table = GrowingArray(data.block_ids)
        self.num_prompt_tokens = data.num_prompt_tokens
        self.sampling_params: SamplingParams = data.sampling_params
        self.task = data.task
        self.hidden_sum: torch.Tensor | None = None
        """EMBED: sum of the last hidden states so far, `[hidden_size]` fp32."""
        self.num_pooled = 0

    @property
    def num_output_tokens(self) -> int:
        """Tokens beyond the prompt; also the output position of the next token."""
        return len(self.token_ids) - self.num_prompt_tokens


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One step's flat batch of `num_tokens` tokens."""

    input_ids: Int64Array
    """`[num_tokens]`."""
    positions: Int64Array
    """`[num_tokens]`: of each token in its request."""
    spans: tuple[RequestSpan, ...]
    """One per scheduled request, in batch order."""
    sampling_rows: Int64Array
    """`[num_samples]`: the rows of the flat batch whose logits are needed."""
    sampling_requests: tuple[CachedRequest, ...]
    """The request of each sampling row."""
    embedding_spans: tuple[tuple[CachedRequest, RequestSpan, bool], ...]
    """EMBED requests, their rows, and whether the prompt ends here."""


class InputBatch:
    """All requests that the runner keeps, by key."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._offsets: Int64Array = np.arange(block_size, dtype=np.int64)
        self._requests: dict[RequestKey, CachedRequest] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, key: RequestKey) -> bool:
        return key in self._requests

    def append_token(self, key: RequestKey, token_id: int) -> None:
        """Add a sampled token to its request."""
        self._requests[key].token_ids.extend((token_id,))

    def apply(self, step: SchedulerOutput) -> None:
        """Forget what was dropped, take in what is new, and extend the block tables."""
        for key in step.dropped_request_keys:
            self._requests.pop(key, None)
        for data in step.new_requests:
            self._requests[data.key] = CachedRequest(data)
        for scheduled in step.scheduled:
            if scheduled.new_block_ids:
                self._requests[scheduled.key].block_table.extend(scheduled.new_block_ids)

    def build(self, scheduled: Sequence[ScheduledRequest]) -> StepInputs:
        """Lay out a step; `apply` must have been called with it.

        Raises:
            ValueError: a request is scheduled beyond its tokens or its blocks.
        """
        input_ids, positions, spans = [], [], []
        sampling_rows: list[int] = []
        sampling_requests: list[CachedRequest] = []
        embedding_spans: list[tuple[CachedRequest, RequestSpan, bool]] = []
        query_start = 0
        for item in scheduled:
            request = self._requests[item.key]
            span = self._span(request, item, query_start)
            end = item.num_computed_tokens + item.num_scheduled_tokens
            input_ids.append(request.token_ids.values[item.num_computed_tokens : end])
            positions.append(np.arange(item.num_computed_tokens, end, dtype=np.int64))
            spans.append(span)
            query_start += item.num_scheduled_tokens
            if request.task == Task.EMBED:
                embedding_spans.append((request, span, item.is_last_chunk))
            elif item.is_last_chunk:
                sampling_rows.append(query_start - 1)
                sampling_requests.append(request)
        return StepInputs(
            np.concatenate(input_ids).astype(np.int64),
            np.concatenate(positions),
            tuple(spans),
            np.array(sampling_rows, dtype=np.int64),
            tuple(sampling_requests),
            tuple(embedding_spans),
        )

    def _span(self, request: CachedRequest, item: ScheduledRequest, query_start: int) -> RequestSpan:
        num_tokens = item.num_computed_tokens + item.num_scheduled_tokens
        blocks = request.block_table.values[: -(-num_tokens // self._block_size)].astype(np.int64)
        slots = (blocks[:, None] * self._block_size + self._offsets).reshape(-1)[:num_tokens]
        if item.num_scheduled_tokens < 1 or num_tokens > len(request.token_ids) or len(slots) < num_tokens:
            raise ValueError(
                f"request {item.key}: {num_tokens} tokens scheduled, {len(request.token_ids)} known, "
                f"{len(request.block_table)} blocks"
            )
        return RequestSpan(query_start, item.num_scheduled_tokens, item.num_computed_tokens, slots)
