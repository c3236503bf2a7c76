"""Picks tokens with a compiled kernel: one pass over each row of logits, rows divided among the threads.

Implements `TokenPicker` for fp32 logits on the CPU; a tenth of torch's time where rows are drawn with top_p.
Thresholds and draws are those of `truncation.py` and `draw.py` but for the rounding of exponentials.
Next: `kernels/src/sampling.h`.
"""

import ctypes
import math

import numpy as np
import numpy.typing as npt
import torch

from engine_core.model.kernels.sampling import RowSampling, declare_sampling, scratch_size
from engine_core.model.sampling.token_picker import PickedTokens, RandomRows

_ROW_TYPE = np.dtype(RowSampling)
_RowArray = npt.NDArray[np.void]


class NativeTokenPicker:
    """Implements `TokenPicker`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        declare_sampling(library)
        self._library = library
        self._rows: _RowArray = np.zeros(0, dtype=_ROW_TYPE)
        """Of the last batch; `uniform` changes from step to step."""
        self._random: RandomRows | None = None
        """Of whom the rows are."""
        self._scratch = torch.empty(0, 0)

    def pick(self, logits: torch.Tensor, random: RandomRows | None) -> PickedTokens:
        """See `TokenPicker`."""
        assert logits.dtype == torch.float32
        assert logits.stride(1) == 1
        num_rows, vocab_size = logits.shape
        num_threads = torch.get_num_threads()
        rows = self._rows_for(random, num_rows, vocab_size)
        if random is not None:
            self._reserve(num_threads, vocab_size)
            rows["uniform"][random.rows.numpy()] = random.uniforms()
        best = np.empty(num_rows, dtype=np.float32)
        token_ids = np.empty(num_rows, dtype=np.int64)
        self._library.sample_rows(
            *(logits.data_ptr(), logits.stride(0), vocab_size, rows.ctypes.data, num_rows),
            *(best.ctypes.data, token_ids.ctypes.data, self._scratch.data_ptr(), self._scratch.stride(0), num_threads),
        )
        return PickedTokens(token_ids.tolist(), best.tolist())

    def _rows_for(self, random: RandomRows | None, num_rows: int, vocab_size: int) -> _RowArray:
        """The rows as the kernel takes them, made anew where the batch is another."""
        if random is not self._random or len(self._rows) != num_rows:
            self._rows = np.zeros(num_rows, dtype=_ROW_TYPE)  # a temperature of 0 takes the largest
            self._random = random
            if random is not None:
                _fill(self._rows, random, vocab_size)
        return self._rows

    def _reserve(self, num_threads: int, vocab_size: int) -> None:
        shape = (num_threads, scratch_size(vocab_size))
        if self._scratch.shape != shape:
            self._scratch = torch.empty(shape)


def _fill(rows: _RowArray, random: RandomRows, vocab_size: int) -> None:
    for row, state in zip(random.rows.tolist(), random.states, strict=True):
        params = state.params
        log_min_p = math.log(params.min_p) if params.min_p > 0 else -math.inf
        top_k = params.top_k if 0 < params.top_k < vocab_size else vocab_size
        rows[row] = (0.0, params.top_p, params.temperature, log_min_p, top_k)
