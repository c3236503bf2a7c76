"""Compiles grammars on a thread of its own, so that neither the step loop nor the I/O thread waits for one.

Called by `core.EngineCore`; the result goes back through a callback, as an event of the step loop. Invariant: every
`compile` is answered exactly once, unless `close` came before.
"""

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llguidance import LLMatcher, LLTokenizer

from engine_core.outputs import RequestKey
from engine_core.structured_output.grammar import CompiledGrammar
from engine_core.tokenizer_export import TOKENIZER_FILE
from ipc.structured_output import GrammarKind, StructuredOutput

log = logging.getLogger(__name__)

OnCompiled = Callable[[RequestKey, CompiledGrammar | None, str], None]
"""Called with the key of the request and either its grammar or a message for its user."""


class GrammarCompiler:
    """Compiles for one tokenizer, which is read when the first grammar comes."""

    def __init__(
        self, tokenizer_dir: Path, vocab_size: int, eos_token_ids: tuple[int, ...], on_compiled: OnCompiled
    ) -> None:
        self._tokenizer_file = tokenizer_dir / TOKENIZER_FILE
        self._vocab_size = vocab_size
        self._eos_token_ids = eos_token_ids
        self._on_compiled = on_compiled
        self._tokenizer: LLTokenizer | None = None
        self._executor = ThreadPoolExecutor(1, "grammar")

    def compile(self, key: RequestKey, structured_output: StructuredOutput) -> None:
        """Begin to compile; returns at once."""
        self._executor.submit(self._compile, key, structured_output)

    def close(self) -> None:
        """Give up what has not begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _compile(self, key: RequestKey, structured_output: StructuredOutput) -> None:
        try:
            grammar = self._compiled(structured_output)
        except ValueError as error:
            self._on_compiled(key, None, str(error))
        except Exception:  # the top of this thread's work for one request
            log.exception("a grammar could not be compiled")
            self._on_compiled(key, None, "The grammar could not be compiled.")
        else:
            self._on_compiled(key, grammar, "")

    def _compiled(self, structured_output: StructuredOutput) -> CompiledGrammar:
        if self._tokenizer is None:
            self._tokenizer = LLTokenizer(
                str(self._tokenizer_file), n_vocab=self._vocab_size, eos_token=list(self._eos_token_ids)
            )
        matcher = LLMatcher(self._tokenizer, _llguidance_grammar(structured_output))
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return CompiledGrammar(matcher)


def _llguidance_grammar(structured_output: StructuredOutput) -> str:
    spec = structured_output.spec
    match structured_output.kind:
        case GrammarKind.JSON_OBJECT:
            return LLMatcher.grammar_from_json_schema({"type": "object"})
        case GrammarKind.JSON_SCHEMA:
            return LLMatcher.grammar_from_json_schema(spec)
        case GrammarKind.REGEX:
            return LLMatcher.grammar_from_regex(spec)
        case GrammarKind.CHOICE:
            return LLMatcher.grammar_from_json_schema({"enum": json.loads(spec)})
        case _:
            return LLMatcher.grammar_from_lark(spec)
