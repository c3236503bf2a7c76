"""What the sampler keeps of one request: its parameters, its tokens, how often it said each, where its grammar is.

Owned by `input_batch.CachedRequest`, read by everything in this package, advanced by `batch_sampler.py` alone, and
only after a token was sampled. Invariant: it is a function of the tokens so far, so a request that comes again after
a preemption or with the tokens of an earlier life continues as if nothing had happened.
Next: `token_counts.py`.
"""

import time

import numpy as np
import numpy.typing as npt

from engine_core.model.growing_array import GrowingArray, Int32Array
from engine_core.model.sampling.bad_words import BadWordIndex
from engine_core.model.sampling.token_counts import TokenCounts
from engine_core.outputs import NewRequestData, RequestKey
from engine_core.structured_output.grammar import CompiledGrammar, GrammarError, GrammarMatcher
from ipc.sampling_params import SamplingParams

MASK_S = 0.005
"""CPU time that a mask may take in the mean; usual ones take 0.02 to 0.2 ms."""
FIRST_MASKS_S = 0.1
"""What the masks of an answer may take together beyond the mean: the first ones are slow."""


class SamplingState:
    """One request, as the sampler sees it."""

    __slots__ = (
        "_grammar",
        "_mask_budget_s",
        "_matcher",
        "allowed_token_ids",
        "bad_words",
        "bias_token_ids",
        "bias_values",
        "counts",
        "key",
        "num_prompt_tokens",
        "params",
        "token_ids",
    )

    def __init__(self, data: NewRequestData) -> None:
        self.key: RequestKey = data.key
        self.params: SamplingParams = data.sampling_params
        self.token_ids = GrowingArray(data.token_ids)
        """Prompt and output so far."""
        self.num_prompt_tokens = data.num_prompt_tokens
        self.counts: TokenCounts | None = None
        """Kept only where a penalty needs them."""
        if data.sampling_params.has_penalties:
            num_seen = data.num_prompt_tokens if data.sampling_params.repetition_penalty != 1 else 0
            self.counts = TokenCounts(self.token_ids.values[:num_seen], self.output_token_ids)
        # Long lists become arrays once, not whenever the membership of the batch changes.
        params = data.sampling_params
        biases = {item.token_id: item.bias for item in params.logit_bias}
        self.allowed_token_ids: npt.NDArray[np.int64] = np.array(params.allowed_token_ids, dtype=np.int64)
        self.bias_token_ids: npt.NDArray[np.int64] = np.array(list(biases), dtype=np.int64)
        self.bias_values: npt.NDArray[np.float32] = np.array(list(biases.values()), dtype=np.float32)
        self.bad_words = BadWordIndex(params.bad_words_token_ids) if params.bad_words_token_ids else None
        self._grammar: CompiledGrammar | None = data.grammar
        self._matcher: GrammarMatcher | None = None
        self._mask_budget_s = FIRST_MASKS_S

    @property
    def num_output_tokens(self) -> int:
        """Tokens beyond the prompt; also the output position of the next token."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def output_token_ids(self) -> Int32Array:
        """A view of the output so far, valid until the next token."""
        return self.token_ids.values[self.num_prompt_tokens :]

    @property
    def has_grammar(self) -> bool:
        """True where only some tokens may come next."""
        return self._grammar is not None

    @property
    def is_grammar_complete(self) -> bool:
        """True once nothing but EOS could follow."""
        return self._matcher is not None and self._matcher.is_complete

    def fill_mask(self, words: Int32Array) -> None:
        """Write which tokens the grammar allows next; see `GrammarMatcher.fill_mask`.

        The first call makes the matcher and replays the output, which may take a while: it runs off the step loop.

        Raises:
            GrammarError: the grammar exceeded a limit, or the output so far does not follow it, or the masks of this
                request take so much CPU time that everybody's steps would wait for them.
        """
        assert self._grammar is not None
        if self._matcher is None:
            self._matcher = self._grammar.new_matcher(self.output_token_ids.tolist())
        started_at = time.thread_time()
        self._matcher.fill_mask(words)
        self._mask_budget_s += MASK_S - (time.thread_time() - started_at)
        if self._mask_budget_s < 0:
            raise GrammarError("its masks take too long")

    def append(self, token_id: int) -> None:
        """Go on by a sampled token; raises `GrammarError` where the grammar cannot."""
        if self._matcher is not None:
            self._matcher.accept([token_id])
        self.token_ids.append(token_id)
        if self.counts is not None:
            self.counts.add(token_id)
