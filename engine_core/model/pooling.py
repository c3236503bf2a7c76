"""From the hidden states of an EMBED request to its embedding: which positions count, chunk by chunk.

One `Pooling` per request, kept by `input_batch.CachedRequest` and fed by `model_runner.py`. Invariant: the result does
not depend on how the prompt is cut into chunks, nor on the other requests of a step; it is normalized, fp32.
"""

import math
from typing import Literal

import torch

PoolingType = Literal["mean", "last", "cls"]


class Pooling:
    """What is kept of one request until its prompt is computed."""

    def __init__(self, kind: PoolingType) -> None:
        self._kind = kind
        self._pooled: torch.Tensor | None = None
        """`[hidden_size]` fp32: the sum so far, or the state of the one position that counts."""
        self.num_positions = 0
        """Positions that were added."""

    def add(self, rows: torch.Tensor) -> None:
        """Take the next positions, `[num_positions, hidden_size]`."""
        if self._kind == "mean":
            chunk_sum = rows.sum(dim=0, dtype=torch.float32)
            self._pooled = chunk_sum if self._pooled is None else self._pooled + chunk_sum
        elif self._kind == "last":
            self._pooled = rows[-1].to(torch.float32, copy=True)  # the rows of the step are not kept for it
        elif self._pooled is None:
            self._pooled = rows[0].to(torch.float32, copy=True)
        self.num_positions += rows.shape[0]

    def result(self) -> list[float] | None:
        """The normalized embedding of what was added; None where its length is 0 or not finite."""
        assert self._pooled is not None
        norm = float(torch.linalg.vector_norm(self._pooled))
        if not math.isfinite(norm) or norm == 0:
            return None
        values: list[float] = (self._pooled / norm).tolist()
        return values
