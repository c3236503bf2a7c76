"""From the hidden states of an EMBED request to its embedding: which positions count, and the length of the vector.

A decoder has one `Pooling` per request, kept by `input_batch.CachedRequest` and fed chunk by chunk by
`model_runner.py`; an encoder pools whole texts at once (`pool_texts`). Invariant: the result does not depend on how the
prompt is cut into chunks, nor on the other requests of a step; it is fp32.
"""

import math
from dataclasses import dataclass

import torch

from engine_core.sentence_files import PoolingType


@dataclass(frozen=True, slots=True)
class PoolingConfig:
    """How a model makes its embeddings."""

    kind: PoolingType = "mean"
    is_normalized: bool = True
    """Scaled to length 1."""


class Pooling:
    """What is kept of one request until its prompt is computed."""

    def __init__(self, config: PoolingConfig) -> None:
        self._config = config
        self._pooled: torch.Tensor | None = None
        """`[hidden_size]` fp32: the sum so far, or the state of the one position that counts."""
        self.num_positions = 0
        """Positions that were added."""

    def add(self, rows: torch.Tensor) -> None:
        """Take the next positions, `[num_positions, hidden_size]`."""
        if self._config.kind == "mean":
            chunk_sum = rows.sum(dim=0, dtype=torch.float32)
            self._pooled = chunk_sum if self._pooled is None else self._pooled + chunk_sum
        elif self._config.kind == "last":
            self._pooled = rows[-1].to(torch.float32, copy=True)  # the rows of the step are not kept for it
        elif self._pooled is None:
            self._pooled = rows[0].to(torch.float32, copy=True)
        self.num_positions += rows.shape[0]

    def result(self) -> list[float] | None:
        """The embedding of what was added; None where its length is not finite, or 0 although it is normalized."""
        assert self._pooled is not None
        pooled = self._pooled / self.num_positions if self._config.kind == "mean" else self._pooled
        return _vectors(pooled.unsqueeze(0), self._config)[0]


def pool_texts(rows: torch.Tensor, config: PoolingConfig) -> list[list[float] | None]:
    """The embeddings of texts of one length, `[num_texts, num_tokens, hidden_size]`; None as in `Pooling.result`."""
    if config.kind == "mean":
        pooled = rows.mean(dim=1, dtype=torch.float32)
    else:
        pooled = rows[:, -1 if config.kind == "last" else 0].float()
    return _vectors(pooled, config)


def _vectors(pooled: torch.Tensor, config: PoolingConfig) -> list[list[float] | None]:
    """For `[num_texts, hidden_size]`."""
    lengths = torch.linalg.vector_norm(pooled, dim=1)
    vectors = (pooled / lengths[:, None]).tolist() if config.is_normalized else pooled.tolist()
    return [
        vector if math.isfinite(length) and (length > 0 or not config.is_normalized) else None
        for vector, length in zip(vectors, lengths.tolist(), strict=True)
    ]
