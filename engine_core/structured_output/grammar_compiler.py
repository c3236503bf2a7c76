"""Compiles grammars on threads of their own, so that neither the step loop nor the I/O thread waits for one.

Called by `core.EngineCore`; the result goes back through a callback, as an event of the step loop. Requests with the
same grammar share one compilation and its result.
Invariant: every `compile` is answered exactly once and within the time limit, unless `close` came before.
Next: `engine_core/model/fake_runner.py`, a runner that uses matchers.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from llguidance import LLTokenizer

from engine_core.outputs import RequestKey
from engine_core.structured_output.grammar import CompiledGrammar, GrammarError
from engine_core.structured_output.grammar_cache import GrammarCache
from engine_core.structured_output.grammar_source import llguidance_grammar
from engine_core.tokenizer_export import TOKENIZER_FILE
from ipc.structured_output import StructuredOutput

log = logging.getLogger(__name__)

COMPILE_TIMEOUT_S = 5.0
NUM_THREADS = 2
"""One slow grammar does not hold up the others."""

OnCompiled = Callable[[RequestKey, CompiledGrammar | None, str], None]
"""Called with the key of the request and either its grammar or a message for its user; on any thread."""


@dataclass(slots=True, eq=False)
class _Job:
    """One grammar being compiled."""

    structured_output: StructuredOutput
    waiting: set[RequestKey] = field(default_factory=set)
    """Requests that have no answer yet."""
    done: threading.Event = field(default_factory=threading.Event)


class GrammarCompiler:
    """Compiles for one tokenizer, which is read when the first grammar comes."""

    def __init__(
        self,
        tokenizer_dir: Path,
        vocab_size: int,
        eos_token_ids: tuple[int, ...],
        on_compiled: OnCompiled,
        *,
        timeout_s: float = COMPILE_TIMEOUT_S,
        num_threads: int = NUM_THREADS,
    ) -> None:
        """`vocab_size` is the model's: its tokenizer may know more tokens, or fewer."""
        self._tokenizer_file = tokenizer_dir / TOKENIZER_FILE
        self._vocab_size = vocab_size
        self._eos_token_ids = eos_token_ids
        self._on_compiled = on_compiled
        self._timeout_s = timeout_s
        self._num_threads = num_threads
        self._tokenizer: LLTokenizer | None = None
        self._tokenizer_lock = threading.Lock()
        self._lock = threading.Lock()
        """Guards what follows, and the `waiting` of every job."""
        self._cache = GrammarCache()
        self._jobs: dict[StructuredOutput, _Job] = {}
        self._is_started = False
        self._is_closed = False
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._deadlines: SimpleQueue[tuple[float, RequestKey, _Job] | None] = SimpleQueue()
        """In order of time, because all requests have the same limit."""

    def compile(self, key: RequestKey, structured_output: StructuredOutput) -> None:
        """Begin to compile; returns at once. The answer may come before that."""
        with self._lock:
            if self._is_closed:
                return
            grammar = self._cache.get(structured_output)
            if grammar is None:
                self._enqueue(key, structured_output)
        if grammar is not None:
            self._on_compiled(key, grammar, "")

    def close(self) -> None:
        """Give up what is not answered. Nothing is waited for: a compilation cannot be interrupted."""
        with self._lock:
            self._is_closed = True
            for job in self._jobs.values():
                job.waiting.clear()
        for _ in range(self._num_threads):
            self._queue.put(None)
        self._deadlines.put(None)

    def build(self, structured_output: StructuredOutput) -> CompiledGrammar:
        """Compile on this thread; raises `GrammarError` with a message for the user."""
        source = llguidance_grammar(structured_output)
        with self._tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = self._load_tokenizer()
        return CompiledGrammar(self._tokenizer, source)

    def _enqueue(self, key: RequestKey, structured_output: StructuredOutput) -> None:
        if not self._is_started:
            self._is_started = True
            for _ in range(self._num_threads):
                threading.Thread(target=self._work, name="grammar", daemon=True).start()
            threading.Thread(target=self._watch, name="grammar-deadlines", daemon=True).start()
        job = self._jobs.get(structured_output)
        if job is None:
            job = self._jobs[structured_output] = _Job(structured_output)
            self._queue.put(job)
        job.waiting.add(key)
        self._deadlines.put((time.monotonic() + self._timeout_s, key, job))

    def _work(self) -> None:
        """Compile job after job."""
        while (job := self._queue.get()) is not None:
            with self._lock:
                if not job.waiting:  # all have given up
                    self._end(job, None)
                    continue
            grammar, error_message = self._try_build(job.structured_output)
            with self._lock:
                keys = self._end(job, grammar)
            for key in keys:
                self._on_compiled(key, grammar, error_message)

    def _try_build(self, structured_output: StructuredOutput) -> tuple[CompiledGrammar | None, str]:
        try:
            return self.build(structured_output), ""
        except GrammarError as error:
            return None, str(error)
        except Exception:  # the top of this thread's work for one grammar
            log.exception("a grammar could not be compiled")
            return None, "The grammar could not be compiled."

    def _end(self, job: _Job, grammar: CompiledGrammar | None) -> set[RequestKey]:
        """Close a job; returns who is to be told."""
        del self._jobs[job.structured_output]
        if grammar is not None:
            self._cache.put(job.structured_output, grammar)
        keys, job.waiting = job.waiting, set()
        job.done.set()
        return keys

    def _watch(self) -> None:
        """Answer the requests whose time is over; their job goes on, for those that came later."""
        while (item := self._deadlines.get()) is not None:
            deadline, key, job = item
            job.done.wait(max(0.0, deadline - time.monotonic()))
            with self._lock:
                is_late = key in job.waiting
                job.waiting.discard(key)
            if is_late:
                self._on_compiled(key, None, f"The grammar was not compiled within {self._timeout_s:g} s.")

    def _load_tokenizer(self) -> LLTokenizer:
        if not self._eos_token_ids:
            raise GrammarError("This model has no end-of-sequence token, so that its answers could not end.")
        path, eos_token_ids = str(self._tokenizer_file), list(self._eos_token_ids)
        try:
            return LLTokenizer(path, n_vocab=self._vocab_size, eos_token=eos_token_ids)
        except ValueError:  # the tokenizer knows tokens past the model's vocabulary, which a mask then leaves out
            return LLTokenizer(path, eos_token=eos_token_ids)
