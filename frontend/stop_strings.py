"""Finding stop strings in a growing text, holding back no more than could still become one.

Each stop string has a Knuth-Morris-Pratt automaton (D. Knuth, J. Morris, V. Pratt, "Fast pattern matching in strings",
SIAM J. Comput. 6, 1977) that is fed character by character; the longest prefix that any of them has matched is what
must be held back. So the result does not depend on how the text is cut, and the cost is linear in the text.
Used by `output_processor.py`.
"""

from collections.abc import Sequence


class StopStringMatcher:
    """Watches the text of one answer."""

    def __init__(self, stop_strings: Sequence[str], *, include_stop_string: bool = False) -> None:
        self._stop_strings = tuple(stop_strings)
        self._fallbacks = [_fallbacks(stop) for stop in self._stop_strings]
        self._matched = [0] * len(self._stop_strings)
        self._held = ""
        self._include_stop_string = include_stop_string
        self.found: str | None = None
        """The stop string that ended the text. Of several the one that ends first; ties go by their order."""

    def push(self, text: str) -> str:
        """Take in more text; returns what may be shown now. After a match all further text is dropped."""
        if self.found is not None:
            return ""
        if not self._stop_strings:
            return text
        text_begin = len(self._held)
        buffer = self._held + text
        for position in range(text_begin, len(buffer)):
            self.found = self._advance(buffer[position])
            if self.found is not None:
                self._held = ""
                end = position + 1
                return buffer[: end if self._include_stop_string else end - len(self.found)]
        num_shown = len(buffer) - max(self._matched)
        self._held = buffer[num_shown:]
        return buffer[:num_shown]

    def flush(self) -> str:
        """What is held back, at the end of the answer."""
        held, self._held = self._held, ""
        self._matched = [0] * len(self._stop_strings)
        return held

    def _advance(self, character: str) -> str | None:
        """Feed one character to every automaton; returns the first stop string that it completes."""
        completed = None
        for index, stop in enumerate(self._stop_strings):
            matched = self._matched[index]
            fallbacks = self._fallbacks[index]
            while matched and stop[matched] != character:
                matched = fallbacks[matched - 1]
            if stop[matched] == character:
                matched += 1
            if matched == len(stop):
                completed = completed if completed is not None else stop
                matched = 0
            self._matched[index] = matched
        return completed


def _fallbacks(pattern: str) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    lengths = [0] * len(pattern)
    matched = 0
    for position in range(1, len(pattern)):
        while matched and pattern[position] != pattern[matched]:
            matched = lengths[matched - 1]
        if pattern[position] == pattern[matched]:
            matched += 1
        lengths[position] = matched
    return lengths
