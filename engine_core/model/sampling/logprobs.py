"""Log-probabilities of given tokens, their ranks, and the best tokens beside them.

Of logits as the model gave them, before grammar, penalties, temperature and the like, so all of them are finite.
Used by `sampler.py` for sampled tokens and by `prompt_logprobs.py` for those of prompts.
"""

from array import array
from dataclasses import dataclass

import torch

from engine_core.outputs import Logprobs
from ipc.sampling_params import MAX_LOGPROBS


@dataclass(frozen=True, slots=True)
class LogprobColumns:
    """The log-probabilities of one token in each of some rows."""

    ranks: torch.Tensor
    """`[rows]` int32: 1 + how many tokens have a greater logit."""
    token_ids: torch.Tensor
    """`[rows, 1 + num_top]` int32: the token itself, then the best in falling order."""
    values: torch.Tensor
    """`[rows, 1 + num_top]` fp32: natural logarithms."""

    def row(self, row: int, num_top: int) -> Logprobs:
        """One row with its `num_top` best tokens."""
        num_entries = min(1 + num_top, self.token_ids.shape[1])  # a vocabulary may be smaller
        entries = slice(0, num_entries)
        return Logprobs(
            num_entries,
            array("i", [int(self.ranks[row])]),
            array("i", self.token_ids[row, entries].tolist()),
            array("f", self.values[row, entries].tolist()),
        )


def logprob_columns(logits: torch.Tensor, token_ids: torch.Tensor, num_top: int) -> LogprobColumns:
    """Look up `[rows]` tokens in `[rows, vocab_size]` fp32 logits; at most `MAX_LOGPROBS` best ones beside each."""
    own = token_ids[:, None]
    ranks = (logits > logits.gather(-1, own)).sum(dim=-1, dtype=torch.int32) + 1
    entries = own
    if num_top > 0:
        # Always as many, so that which of equal logits comes first does not depend on what other rows want.
        best = logits.topk(min(MAX_LOGPROBS, logits.shape[-1]), dim=-1).indices
        entries = torch.cat((own, best[:, :num_top]), dim=-1)
    values = logits.log_softmax(dim=-1).gather(-1, entries)
    return LogprobColumns(ranks.cpu(), entries.to(torch.int32).cpu(), values.cpu())
