"""A compiled grammar and its matchers: which tokens may come next in an answer.

Made by `grammar_compiler.py`, used by the model runners. llguidance never raises for what a grammar does; it enters an
error state, which is checked here after every call and becomes a `GrammarError` of that one request.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

Int32Array = npt.NDArray[np.int32]
BITS_PER_WORD = 32


class GrammarError(Exception):
    """The matcher cannot go on: a limit was exceeded, or a token was given to it that it does not allow."""


class GrammarMatcher:
    """Where one answer is in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_complete(self) -> bool:
        """True once the answer is whole and nothing but EOS could follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def accept(self, token_ids: Sequence[int]) -> None:
        """Go on past these tokens; raises `GrammarError` if they are not allowed."""
        if not self._matcher.consume_tokens(list(token_ids)):
            raise GrammarError(self._matcher.get_error())

    def fill_mask(self, words: Int32Array) -> None:
        """Write which tokens may come next, one bit each, EOS where the answer may end.

        Args:
            words: `[ceil(vocab_size / 32)]`, contiguous; token t is bit t % 32 of word t // 32.

        Raises:
            GrammarError: a limit was exceeded; the mask means nothing.
        """
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)  # lets go of the GIL
        if self._matcher.is_error():
            raise GrammarError(self._matcher.get_error())


class CompiledGrammar:
    """A grammar that is known to be one; shared by all requests with the same."""

    def __init__(self, prototype: LLMatcher) -> None:
        """`prototype` has consumed nothing and is used by nobody else."""
        self._prototype = prototype

    def new_matcher(self, output_token_ids: Sequence[int] = ()) -> GrammarMatcher:
        """A matcher behind the output so far; raises `GrammarError` if that does not follow the grammar."""
        matcher = GrammarMatcher(self._prototype.deep_copy())
        if output_token_ids:
            matcher.accept(output_token_ids)
        return matcher
