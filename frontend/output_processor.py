"""From one answer's token ids to its text: detokenizer, stop strings, finish reason and token counts.

One `OutputProcessor` per answer, fed by `generation.py`. It goes token by token however many arrive at once, or takes
a whole answer where that gives the same, so the text and the counts do not depend on how the engine's outputs were
merged.
Invariant: after the delta with `finish` no more is expected, and all deltas together are the whole answer. Tokens are
kept beside the text only where somebody asked for them (`answer_tokens.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from frontend.answer_parser.reasoning import ReasoningCounter
from frontend.answer_tokens import AnswerToken, AnswerTokens
from frontend.default_template import NO_ENDS, AnswerEnds
from frontend.detokenizer import Detokenizer
from frontend.stop_strings import StopStringMatcher
from frontend.tokenizer import FrontendTokenizer
from ipc.client import Output
from ipc.errors import EngineUnavailableError
from ipc.messages import CANCELLED, Finished, FinishReason

_REPLACEMENT = "\ufffd"
ABORT = "abort"
"""`Finish.reason` of an answer that was cancelled; what there is of it is the answer."""


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How the token ids of an answer become text."""

    stop_strings: tuple[str, ...] = ()
    ends: AnswerEnds = NO_ENDS
    """What ends the answer as EOS does."""
    include_stop_str_in_output: bool = False
    """Also applies to a stop token, whose text is shown then (unless it is special and those are skipped)."""
    skip_special_tokens: bool = True
    min_tokens: int = 0
    """Stop strings are looked for only in what follows this many tokens."""
    has_tokens: bool = False
    """Deltas also have the tokens."""
    starts_in_reasoning: bool | None = None
    """Whether the prompt has begun the reasoning of the answer; None where the model does not think."""
    is_prompt_only: bool = False
    """The answer is empty: the one token that the engine makes at least is dropped."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of one answer."""

    reason: str
    """OpenAI's word, `stop` or `length`; vLLM's `abort` where the request was cancelled by its id."""
    stop_reason: str | int | None
    """The stop string or the stop token other than EOS that ended it."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What one output of the engine adds to an answer."""

    text: str
    num_output_tokens: int
    """Tokens of the answer so far, including the one that ended it."""
    finish: Finish | None
    tokens: Sequence[AnswerToken] = ()
    """Tokens whose text is complete with this delta, where `TextOptions.has_tokens`. All together they are as many as
    `num_output_tokens` counts in the end, and include the one that ended the answer."""


class OutputProcessor:
    """Turns the outputs of one request into text."""

    def __init__(self, tokenizer: FrontendTokenizer, options: TextOptions, eos_token_ids: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens=options.skip_special_tokens)
        self._matcher = StopStringMatcher(
            (*options.stop_strings, *options.ends.strings), include_stop_string=options.include_stop_str_in_output
        )
        self._options = options
        self._eos_token_ids = (*eos_token_ids, *options.ends.token_ids)
        self._num_tokens = 0
        self._tokens = AnswerTokens() if options.has_tokens else None
        self._reasoning: ReasoningCounter | None = None
        if options.starts_in_reasoning is not None:
            self._reasoning = ReasoningCounter(starts_inside=options.starts_in_reasoning)

    @property
    def can_take_whole(self) -> bool:
        """True where nobody needs to see the answer before its end, and its text can be had of all tokens at once."""
        has_strings = bool(self._options.stop_strings or self._options.ends.strings)
        is_plain = not has_strings and self._tokens is None and self._reasoning is None
        return is_plain and self._tokenizer.is_byte_level

    @property
    def num_reasoning_tokens(self) -> int | None:
        """Tokens of the answer's reasoning so far; None where the model does not think."""
        return None if self._reasoning is None else self._reasoning.num_tokens

    def process(self, output: Output) -> TextDelta:
        """Take in one output.

        Raises:
            EngineUnavailableError: the engine gave the request up; neither this side nor its user asked for it.
        """
        finished = output.finished
        is_aborted = finished is not None and finished.reason is FinishReason.ABORT
        if finished is not None and is_aborted and finished.error_code != CANCELLED:
            raise EngineUnavailableError("The engine stopped this request.", code="aborted")
        if self._options.is_prompt_only:
            return TextDelta("", 0, Finish(ABORT if is_aborted else "length", None))
        if finished is not None and self._num_tokens == 0 and self.can_take_whole:
            whole = self._whole_delta(output, finished)
            if whole is not None:
                return whole
        texts: list[str] = []
        last = len(output.token_ids) - 1
        is_end_hidden = False
        for index, token_id in enumerate(output.token_ids):
            is_stop_token = index == last and finished is not None and finished.stop_token_id == token_id
            self._num_tokens += 1
            if is_stop_token and not self._options.include_stop_str_in_output:
                is_end_hidden = True
                break
            decoded = self._detokenizer.step(token_id)
            if self._reasoning is not None:
                self._reasoning.push(decoded, self._num_tokens)
            texts.append(self._on_text(decoded))
            if self._tokens is not None:
                self._tokens.add(token_id, output.logprobs[index] if output.logprobs else None, decoded)
            if self._matcher.found is not None:
                return self._delta(texts, self._stopped(self._matcher.found))
        if finished is None:
            return self._delta(texts, None)
        return self._last_delta(texts, output, finished, is_end_hidden=is_end_hidden)

    def _whole_delta(self, output: Output, finished: Finished) -> TextDelta | None:
        """The answer in one piece; None where some of its bytes are no text, which going token by token divides."""
        ids = output.token_ids
        if ids and ids[-1] == finished.stop_token_id and not self._options.include_stop_str_in_output:
            ids = ids[:-1]
        text = self._tokenizer.decode(ids, skip_special_tokens=self._options.skip_special_tokens)
        if _REPLACEMENT in text:
            return None
        self._num_tokens = len(output.token_ids)
        return TextDelta(text, self._num_tokens, self._finish(finished))

    def _last_delta(self, texts: list[str], output: Output, finished: Finished, *, is_end_hidden: bool) -> TextDelta:
        held = self._detokenizer.flush()
        texts.append(self._on_text(held))
        if self._tokens is not None:
            self._tokens.flush(held)
            if is_end_hidden:
                last_logprobs = output.logprobs[-1] if output.logprobs else None
                self._tokens.add(finished.stop_token_id, last_logprobs, "")
        if self._matcher.found is not None:
            return self._delta(texts, self._stopped(self._matcher.found))
        texts.append(self._matcher.flush())
        return self._delta(texts, self._finish(finished))

    def _delta(self, texts: list[str], finish: Finish | None) -> TextDelta:
        text = "".join(texts)
        if self._tokens is None:
            return TextDelta(text, self._num_tokens, finish)
        tokens = self._tokens.release(text, is_last=finish is not None)
        return TextDelta(text, self._num_tokens, finish, tokens)

    def _on_text(self, text: str) -> str:
        return text if self._num_tokens <= self._options.min_tokens else self._matcher.push(text)

    def _stopped(self, found: str) -> Finish:
        is_end = found in self._options.ends.strings and found not in self._options.stop_strings
        return Finish("stop", None if is_end else found)

    def _finish(self, finished: Finished) -> Finish:
        if finished.reason is FinishReason.LENGTH:
            return Finish("length", None)
        if finished.reason is FinishReason.ABORT:
            return Finish(ABORT, None)
        is_eos = finished.stop_token_id in self._eos_token_ids or finished.stop_token_id < 0
        return Finish("stop", None if is_eos else finished.stop_token_id)
