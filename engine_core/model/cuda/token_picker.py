"""Launches the sampling kernel: whatever the rows ask for, a step has one launch and one copy to the host.

Implements `TokenPicker` on a GPU. Parameters lie on the device in columns, made anew only when the membership of the
batch changes. Thresholds and draws are those of `sampling/truncation.py` and `sampling/draw.py` but for the rounding of
exponentials and sums. Next: `sampling_kernels.py`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from engine_core.model.cuda.sampling_kernels import pick_token
from engine_core.model.sampling.token_picker import PickedTokens, RandomRows

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class _Columns:
    """`[num_rows]` each, on the device; as the kernel takes them."""

    temperature: torch.Tensor
    min_p_distance: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor


class TritonTokenPicker:
    """Implements `TokenPicker`."""

    def __init__(self) -> None:
        self._random: RandomRows | None = None
        """Of whom the columns are."""
        self._row_numbers: list[int] = []
        self._columns: _Columns | None = None

    def pick(self, logits: torch.Tensor, random: RandomRows | None) -> PickedTokens:
        """See `TokenPicker`."""
        if random is None:
            best = logits.max(dim=-1)
            picked = torch.stack((best.indices.double(), best.values.double()))
        else:
            picked = self._draw(logits.contiguous(), random)
        columns = picked.cpu()  # fp64 holds token ids and fp32 values exactly
        return PickedTokens(columns[0].long().tolist(), columns[1].tolist())

    def _draw(self, logits: torch.Tensor, random: RandomRows) -> torch.Tensor:
        """`[2, num_rows]` fp64: token ids, and the largest logits."""
        num_rows, vocab_size = logits.shape
        columns = self._columns_for(random, logits)
        uniforms = np.zeros(num_rows)
        uniforms[self._row_numbers] = random.uniforms()
        picked = torch.empty((2, num_rows), dtype=torch.float64, device=logits.device)
        pick_token[(num_rows,)](
            *(picked, logits, columns.temperature, torch.from_numpy(uniforms).to(logits.device)),
            *(columns.min_p_distance, columns.top_k, columns.top_p, num_rows, vocab_size),
            BLOCK=_BLOCK,
            num_warps=8,
        )
        return picked

    def _columns_for(self, random: RandomRows, logits: torch.Tensor) -> _Columns:
        if self._columns is None or random is not self._random:
            self._row_numbers = random.rows.tolist()
            self._columns = _columns(random, self._row_numbers, logits)
            self._random = random
        return self._columns


def _columns(random: RandomRows, row_numbers: list[int], logits: torch.Tensor) -> _Columns:
    num_rows, vocab_size = logits.shape
    temperature = np.zeros(num_rows, dtype=np.float32)  # of greedy rows
    min_p_distance = np.full(num_rows, math.inf, dtype=np.float32)
    top_k = np.full(num_rows, vocab_size, dtype=np.int32)
    top_p = np.ones(num_rows, dtype=np.float64)
    for row, state in zip(row_numbers, random.states, strict=True):
        params = state.params
        temperature[row], top_p[row] = params.temperature, params.top_p
        if params.min_p > 0:
            min_p_distance[row] = -math.log(params.min_p)
        if 0 < params.top_k < vocab_size:
            top_k[row] = params.top_k
    on_device = [torch.from_numpy(column).to(logits.device) for column in (temperature, min_p_distance, top_k, top_p)]
    return _Columns(*on_device)
