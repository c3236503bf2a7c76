"""Repetition, frequency and presence penalties, by counts that each request keeps of its own tokens.

`sampler.py` applies them to all rows at once: one gather and one scatter of the tokens that were seen, so a row costs
its number of different tokens and not the vocabulary. The repetition penalty (Keskar et al., "CTRL", 2019) looks at
prompt and output, the other two, with OpenAI's formula, at the output alone.
Next: `token_counts.py` keeps the counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from engine_core.model.sampling.state import SamplingState
from engine_core.model.sampling.token_counts import TokenCounts


@dataclass(frozen=True, slots=True)
class Penalties:
    """The rows with penalties, their parameters in columns."""

    rows: npt.NDArray[np.int64]
    counts: tuple[TokenCounts, ...]
    """Of each of these rows; they change from step to step."""
    repetition: torch.Tensor | None
    """`[num_rows]` fp32, as the others; None where no row uses it."""
    frequency: torch.Tensor
    presence: torch.Tensor

    @classmethod
    def build(cls, states: Sequence[SamplingState], device: torch.device) -> Self | None:
        """None where no row has penalties."""
        found = [(row, state.counts, state.params) for row, state in enumerate(states) if state.counts is not None]
        if not found:
            return None
        params = [item for _, _, item in found]
        repetition = [item.repetition_penalty for item in params]
        return cls(
            np.array([row for row, _, _ in found], dtype=np.int64),
            tuple(counts for _, counts, _ in found),
            _column(repetition, device) if any(value != 1 for value in repetition) else None,
            _column([item.frequency_penalty for item in params], device),
            _column([item.presence_penalty for item in params], device),
        )

    def apply(self, logits: torch.Tensor) -> None:
        """Change `[num_rows, vocab_size]` fp32 logits in place: repetition, then frequency, then presence.

        Rows may lie further apart than `vocab_size`, as those of the CPU kernels do.
        """
        sizes = [len(item) for item in self.counts]
        if not any(sizes):
            return
        device = logits.device
        token_ids = np.concatenate([item.token_ids for item in self.counts])
        owner_of = np.repeat(np.arange(len(sizes)), sizes)
        index = torch.from_numpy(self.rows[owner_of] * logits.stride(0) + token_ids).to(device)
        owner = torch.from_numpy(owner_of).to(device)
        counts = torch.from_numpy(np.concatenate([item.counts for item in self.counts])).to(device)
        flat = logits.as_strided(((logits.shape[0] - 1) * logits.stride(0) + logits.shape[1],), (1,))
        values = flat[index]
        if self.repetition is not None:
            factors = self.repetition[owner]
            values = torch.where(values > 0, values / factors, values * factors)
        values -= self.frequency[owner] * counts
        values -= self.presence[owner] * (counts > 0)
        flat.index_copy_(0, index, values)


def _column(values: Sequence[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)
