"""The grammars compiled last, so that requests with the same one share it.

Owned by `grammar_compiler.py`, which holds its lock around every call.
Invariant: no more entries and bytes of text than the limits, and none that a matcher has spoiled.
"""

from collections import OrderedDict

from engine_core.structured_output.grammar import CompiledGrammar
from ipc.structured_output import StructuredOutput

MAX_ENTRIES = 64
MAX_BYTES = 4 * 2**20
"""Of the texts of the grammars: what is compiled grows with them."""


class GrammarCache:
    """Least recently used first out."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._grammars: OrderedDict[StructuredOutput, CompiledGrammar] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._grammars)

    def get(self, structured_output: StructuredOutput) -> CompiledGrammar | None:
        """The compiled grammar, if it is here and good."""
        grammar = self._grammars.get(structured_output)
        if grammar is not None and grammar.is_spoiled:
            self._remove(structured_output)
            return None
        if grammar is not None:
            self._grammars.move_to_end(structured_output)
        return grammar

    def put(self, structured_output: StructuredOutput, grammar: CompiledGrammar) -> None:
        """Keep a grammar that is not here, at the cost of those not used for longest."""
        self._grammars[structured_output] = grammar
        self._num_bytes += _num_bytes(structured_output)
        while len(self._grammars) > self._max_entries or self._num_bytes > self._max_bytes:
            self._remove(next(iter(self._grammars)))

    def _remove(self, structured_output: StructuredOutput) -> None:
        del self._grammars[structured_output]
        self._num_bytes -= _num_bytes(structured_output)


def _num_bytes(structured_output: StructuredOutput) -> int:
    return len(structured_output.spec.encode())
