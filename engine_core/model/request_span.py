"""One request's part of a step's flat batch, and where its tokens lie in the KV cache.

Made by `input_batch.py`; read by every kind of attention. Next: `attention.py`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SlotArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RequestSpan:
    """One request's part of the flat batch."""

    query_start: int
    num_queries: int
    num_computed_tokens: int
    """Tokens in the cache before this step."""
    block_ids: npt.NDArray[np.int32]
    """The blocks that hold the request's tokens, this step's included; there may be more."""
    block_size: int

    @property
    def num_tokens(self) -> int:
        """Of the request, this step's included."""
        return self.num_computed_tokens + self.num_queries

    @property
    def slots(self) -> SlotArray:
        """`[num_tokens]`: slot of each token of the request."""
        offsets = np.arange(self.block_size, dtype=np.int64)
        blocks = self.block_ids[: -(-self.num_tokens // self.block_size)].astype(np.int64)
        return (blocks[:, None] * self.block_size + offsets).reshape(-1)[: self.num_tokens]
