"""Samples for the requests of a step and keeps every failure to the request that caused it.

Called by `model_runner.py`: `begin` before the forward pass, `sample` after it. Invariant: `sampler.sample` changes
no request; a request goes on (tokens, counts, grammar) only here, one by one, after its token is known. So when
sampling a batch raises, it can be done once more row by row, and only the rows that raise again are lost.
Next: `sampler.py`.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

import torch

from engine_core.model.sampling.grammar_masks import NO_MASKS, GrammarMaskFiller, GrammarMasks
from engine_core.model.sampling.sampler import SampledToken, SamplingMetadata, build_sampling_metadata, sample
from engine_core.model.sampling.state import SamplingState
from engine_core.model.sampling.token_picker import TORCH_PICKER, TokenPicker
from engine_core.model.sampling.verification import NOTHING, verified_rows
from engine_core.outputs import ModelRunnerOutput
from engine_core.structured_output.grammar import GrammarError

log = logging.getLogger(__name__)


class BatchSampler:
    """The sampler of one model runner."""

    def __init__(
        self,
        eos_token_ids: Sequence[int],
        vocab_size: int,
        device: torch.device,
        picker: TokenPicker = TORCH_PICKER,
    ) -> None:
        self._eos_token_ids = eos_token_ids
        self._vocab_size = vocab_size
        self._device = device
        self._picker = picker
        self._mask_filler = GrammarMaskFiller(vocab_size)
        self._masks: Future[GrammarMasks] | None = None
        self._states: tuple[SamplingState, ...] = ()
        self._metadata: SamplingMetadata | None = None

    def begin(self, states: Sequence[SamplingState]) -> None:
        """Start what can be done before the logits are known."""
        self._masks = self._mask_filler.start(states)

    def sample(
        self,
        states: Sequence[SamplingState],
        compute_logits: Callable[[], torch.Tensor],
        output: ModelRunnerOutput,
        row_token_ids: Sequence[int] = (),
    ) -> None:
        """Sample for the requests with which `begin` was called; what failed before is left out.

        Args:
            states: one for each row; a request with a draft has rows for positions in turn (`verification.py`).
            compute_logits: gives `[num_rows, vocab_size]` logits, the same ones whenever it is called.
            output: takes the tokens, the logprobs and the failures; requests that it has as failed get no token.
            row_token_ids: the token from which each row was computed; empty where there is no draft.
        """
        logits = compute_logits()
        masks = NO_MASKS if self._masks is None else self._masks.result()
        try:
            sampled = sample(logits, self._metadata_for(tuple(states)), masks, self._picker)
        except Exception:  # one row must not take the others with it
            log.exception("%d rows could not be sampled together; once more one by one", len(states))
            sampled = self._sample_one_by_one(states, compute_logits(), masks)
        rows: Iterable[int] = range(len(states))
        if row_token_ids:
            drawn = [NOTHING if token.failure else token.token_id for token in sampled]
            rows = verified_rows(states, drawn, row_token_ids)
        for row in rows:
            state, token = states[row], sampled[row]
            if state.key not in output.failures:
                self._go_on(state, token, masks.failures.get(row, token.failure), output)

    def _metadata_for(self, states: tuple[SamplingState, ...]) -> SamplingMetadata:
        if self._metadata is None or states != self._states:  # the same objects: a preempted request has a new one
            self._metadata = self._build_metadata(states)
            self._states = states
        return self._metadata

    def _build_metadata(self, states: Sequence[SamplingState]) -> SamplingMetadata:
        return build_sampling_metadata(states, self._eos_token_ids, self._vocab_size, self._device)

    def _sample_one_by_one(
        self, states: Sequence[SamplingState], logits: torch.Tensor, masks: GrammarMasks
    ) -> list[SampledToken]:
        sampled = []
        for row, state in enumerate(states):
            if row and state is states[row - 1]:  # a draft, which is given up
                sampled.append(SampledToken(0, "sampler_error"))
                continue
            try:
                metadata = self._build_metadata([state])
                sampled += sample(logits[row : row + 1], metadata, masks.of_row(row), self._picker)
            except Exception:  # lost alone
                log.exception("request %d could not be sampled", state.key, extra={"request_key": state.key})
                sampled.append(SampledToken(0, "sampler_error"))
        return sampled

    @staticmethod
    def _go_on(state: SamplingState, token: SampledToken, failure: str, output: ModelRunnerOutput) -> None:
        """Advance a request by its token, or fail it."""
        if not failure:
            try:
                state.append(token.token_id)
            except GrammarError as error:
                log.info("request %d: its grammar cannot go on", state.key, extra={"request_key": state.key})
                log.debug("the grammar of request %d: %s", state.key, error)  # which tells of the answer
                failure = "grammar_error"
            except Exception:  # lost alone
                log.exception("request %d could not go on", state.key, extra={"request_key": state.key})
                failure = "sampler_error"
        if failure:
            output.failures[state.key] = failure
            return
        if state.key in output.sampled_token_ids:  # behind a draft token that was right
            output.further_token_ids.setdefault(state.key, []).append(token.token_id)
            return
        output.sampled_token_ids[state.key] = token.token_id
        if token.logprobs is not None:
            output.logprobs[state.key] = token.logprobs
        if state.is_grammar_complete:
            output.completed_grammars.add(state.key)
