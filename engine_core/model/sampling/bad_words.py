"""Which tokens would complete a word that an answer must not contain.

Made once for a request (`state.py`), asked in each step by `logits_processors.BadWords`.
"""

from collections import defaultdict
from collections.abc import Sequence

from engine_core.model.growing_array import Int32Array


class BadWordIndex:
    """The bad words of one request, by the token before their last."""

    def __init__(self, words: Sequence[tuple[int, ...]]) -> None:
        self._always = tuple({word[0] for word in words if len(word) == 1})
        self._continuations: dict[int, list[tuple[tuple[int, ...], int]]] = defaultdict(list)
        for word in words:
            if len(word) > 1:
                self._continuations[word[-2]].append((word[:-1], word[-1]))
        self._longest_beginning = max((len(word) - 1 for word in words), default=0)

    def forbidden_after(self, output_token_ids: Int32Array) -> list[int]:
        """Tokens that must not come next. As in vLLM, the beginning of a word counts only inside the output."""
        forbidden = list(self._always)
        if len(output_token_ids):
            candidates = self._continuations.get(int(output_token_ids[-1]), ())
            recent = tuple(output_token_ids[-self._longest_beginning :].tolist()) if candidates else ()
            forbidden += [last for beginning, last in candidates if recent[-len(beginning) :] == beginning]
        return forbidden
