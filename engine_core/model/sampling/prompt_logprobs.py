"""Log-probabilities of a prompt's own tokens, collected over the chunks in which it is computed.

Made by `input_batch.py` for a request that wants them and has no output yet, fed by `model_runner.py` with the hidden
states of each chunk. The last row of a chunk predicts the first token of the next. Invariant: the logits exist in
slices only, so what they take does not depend on the prompt, the chunk or the vocabulary; the rows themselves take 8
bytes for each entry.
"""

from array import array
from collections.abc import Callable

import numpy as np
import torch

from engine_core.model.growing_array import Int32Array
from engine_core.model.sampling.logprobs import logprob_columns
from engine_core.outputs import Logprobs

SLICE_BYTES = 24 * 2**20
"""What a slice may take: the logits and all that is computed from them. The heap grows to about twice as much, because
the C library keeps what a slice gives back, in pieces; the goal is 64 MiB."""
BYTES_PER_LOGIT = 16
"""The logit (4, and 2 more where the model computes in bf16), its log_softmax (4), a comparison and its sum (5)."""


class PromptLogprobs:
    """The rows of one prompt: position i is what the model says of token i + 1 after tokens 0 to i."""

    def __init__(self, prompt: Int32Array, num_top: int, vocab_size: int) -> None:
        """`prompt` must stay as it is."""
        self._prompt = prompt
        self._num_top = num_top
        self._rows_per_slice = max(1, SLICE_BYTES // (BYTES_PER_LOGIT * vocab_size))
        self._ranks = array("i")
        self._token_ids = array("i")
        self._values = array("f")

    @property
    def num_missing(self) -> int:
        """Positions that no chunk covered yet."""
        return len(self._prompt) - 1 - len(self._ranks)

    def add(self, start: int, hidden: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Take a chunk of the prompt.

        Args:
            start: position of its first token in the prompt.
            hidden: `[num_tokens, hidden_size]`: last hidden states of the chunk.
            logits: gives `[rows, vocab_size]` for `[rows, hidden_size]`.
        """
        targets = torch.from_numpy(self._prompt[start + 1 : start + 1 + len(hidden)].astype(np.int64)).to(hidden.device)
        for first in range(0, len(targets), self._rows_per_slice):
            wanted = targets[first : first + self._rows_per_slice]
            columns = logprob_columns(logits(hidden[first : first + len(wanted)]).float(), wanted, self._num_top)
            self._ranks.frombytes(columns.ranks.numpy().tobytes())
            self._token_ids.frombytes(columns.token_ids.numpy().tobytes())
            self._values.frombytes(columns.values.numpy().tobytes())

    def result(self) -> Logprobs:
        """All positions; call it once `num_missing` is 0."""
        return Logprobs(1 + self._num_top, self._ranks, self._token_ids, self._values)
