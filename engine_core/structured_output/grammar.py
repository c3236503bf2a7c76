"""A compiled grammar and its matchers: which tokens may come next in an answer.

Made by `grammar_compiler.py`, used by the model runners. llguidance never raises for what a grammar does; it enters an
error state, which is checked here after every call and becomes a `GrammarError` of that one request.
Invariant: what one answer does to a grammar never changes what another one may say.
Next: `grammar_source.py`, what llguidance is given.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

Int32Array = npt.NDArray[np.int32]
BITS_PER_WORD = 32

INITIAL_LEXER_FUEL = 1_000_000
"""Work on the regular expressions of a grammar before the first token: about 20 ms."""
STEP_LEXER_FUEL = 200_000
"""Work on them in one mask: about 15 ms, in a thread beside the forward pass."""
STEP_MAX_ITEMS = 20_000
"""Parser items in one mask: about 1 ms."""
MAX_ITEMS_IN_ROW = 1_000
"""Alternatives open at one byte. A grammar that is ambiguous in every token stays below 20 ms a mask with this, and
needs 130 ms at llguidance's own limit of 2,000; a thousand optional properties still fit."""
MAX_LEXER_STATES = 20_000
"""About 1 KB each, kept as long as the grammar: this bounds its memory at 20 MB. JSON needs about a thousand."""
MAX_GRAMMAR_SIZE = 500_000
"""Symbols; 64 KiB of JSON schema make about 50,000."""
_MAX_LINE_LENGTH = 200
_MAX_MESSAGE_LENGTH = 1_000
_IMPOSSIBLE = "NoExtensionBias"
"""llguidance's word for a grammar without a single sentence."""


class GrammarError(Exception):
    """The matcher cannot go on: a limit was exceeded, or a token was given to it that it does not allow."""


class CompiledGrammar:
    """A grammar that is known to be one; shared by all requests with the same, on any thread."""

    def __init__(self, tokenizer: LLTokenizer, source: str) -> None:
        """Compile, and compute the first mask, which takes longer than the later ones.

        Raises:
            GrammarError: `source` is no grammar of llguidance, exceeds a limit or allows no answer; for its user.
        """
        self._tokenizer = tokenizer
        self._source = source
        self.num_mask_words = -(-tokenizer.vocab_size // BITS_PER_WORD)
        self.is_spoiled = False
        """True once a matcher ran into an error, which all copies of the prototype may share."""
        self._prototype = self.build()
        if not self._prototype.is_error():
            mask = np.zeros(self.num_mask_words, dtype=np.int32)
            self._prototype.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._prototype.is_error():
            raise GrammarError(_message(self._prototype))

    def new_matcher(self, output_token_ids: Sequence[int] = ()) -> "GrammarMatcher":
        """A matcher behind the output so far; raises `GrammarError` if that does not follow the grammar."""
        matcher = GrammarMatcher(self)
        if output_token_ids:
            matcher.accept(output_token_ids)
        return matcher

    def build(self) -> LLMatcher:
        """A matcher that shares nothing, perhaps in an error state; takes milliseconds, without the GIL."""
        limits = LLParserLimits(
            max_items_in_row=MAX_ITEMS_IN_ROW,
            initial_lexer_fuel=INITIAL_LEXER_FUEL,
            step_lexer_fuel=STEP_LEXER_FUEL,
            step_max_items=STEP_MAX_ITEMS,
            max_lexer_states=MAX_LEXER_STATES,
            max_grammar_size=MAX_GRAMMAR_SIZE,
            verbose_errors=False,
        )
        return LLMatcher(self._tokenizer, self._source, log_level=0, limits=limits)

    def copy_prototype(self) -> LLMatcher:
        """A matcher at the start, in microseconds; it shares its lexer with the other copies."""
        return self._prototype.deep_copy()


class GrammarMatcher:
    """Where one answer is in its grammar; used by one thread at a time.

    Copies of a prototype share a lexer, so that each finds the states that the others have built; but also its limits
    and its error state. A matcher in error therefore starts over with a lexer of its own: only what fails there too
    is the fault of its own answer.
    """

    def __init__(self, grammar: CompiledGrammar) -> None:
        self._grammar = grammar
        self._shares_lexer = not grammar.is_spoiled
        self._matcher = grammar.copy_prototype() if self._shares_lexer else grammar.build()
        self._accepted_token_ids: list[int] = []

    @property
    def is_complete(self) -> bool:
        """True once the answer is whole and nothing but EOS could follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def accept(self, token_ids: Sequence[int]) -> None:
        """Go on past these tokens; raises `GrammarError` if they are not allowed."""
        self._accepted_token_ids += token_ids
        if not _consume(self._matcher, token_ids):
            self._start_over_alone()

    def fill_mask(self, words: Int32Array) -> None:
        """Write which tokens may come next, one bit each, EOS where the answer may end.

        Args:
            words: `[ceil(vocab_size / 32)]` of the model, contiguous; token t is bit t % 32 of word t // 32. Bits past
                the vocabulary mean nothing.

        Raises:
            GrammarError: a limit was exceeded; the mask means nothing.
        """
        self._compute_mask(words)
        if self._matcher.is_error():
            self._start_over_alone()
            self._compute_mask(words)
            if self._matcher.is_error():
                raise GrammarError(_message(self._matcher))

    def _compute_mask(self, words: Int32Array) -> None:
        if len(words) == self._grammar.num_mask_words:
            self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)  # lets go of the GIL
            return
        whole = np.zeros(self._grammar.num_mask_words, dtype=np.int32)  # the tokenizer knows more tokens than the model
        self._matcher.unsafe_compute_mask_ptr(whole.ctypes.data, whole.nbytes)
        words[:] = whole[: len(words)]

    def _start_over_alone(self) -> None:
        """Replace the matcher, which is in error, by one that shares no lexer, behind the same tokens."""
        if not self._shares_lexer:
            raise GrammarError(_message(self._matcher))
        self._shares_lexer = False
        self._grammar.is_spoiled = True
        self._matcher = self._grammar.build()
        if not _consume(self._matcher, self._accepted_token_ids):
            raise GrammarError(_message(self._matcher))


def _consume(matcher: LLMatcher, token_ids: Sequence[int]) -> bool:
    """Whether all are allowed. One by one: `consume_tokens` refuses EOS after the end of the grammar."""
    return all(matcher.consume_token(token_id) for token_id in token_ids)


def _message(matcher: LLMatcher) -> str:
    """llguidance's own message, without its decoration and not longer than an error should be."""
    message = matcher.get_error().replace("<non-verbose/>", "").strip()
    if message == _IMPOSSIBLE:
        return "the grammar allows no answer"
    lines = [line[:_MAX_LINE_LENGTH] for line in message.splitlines()]  # some quote the whole grammar
    return "\n".join(lines)[:_MAX_MESSAGE_LENGTH]
