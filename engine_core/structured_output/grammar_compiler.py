"""Compiles grammars on threads of their own, so that neither the step loop nor the I/O thread waits for one.

Called by `core.EngineCore`; the result goes back through a callback, as an event of the step loop. Requests with the
same grammar share one compilation and its result. A compilation cannot be interrupted, so each thread first tries the
grammar in a child process that can be killed (`grammar_probe`): what is compiled here has been compiled there within
its limits, and no grammar holds a thread for long.
Invariant: every `compile` is answered exactly once, unless `cancel` or `close` came before.
Next: `engine_core/model/sampling/grammar_masks.py`, which uses the matchers.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from llguidance import LLTokenizer

from engine_core.outputs import RequestKey
from engine_core.structured_output.grammar import CompiledGrammar, GrammarError
from engine_core.structured_output.grammar_cache import GrammarCache
from engine_core.structured_output.grammar_probe import TIME_LIMIT_S, GrammarProbe, load_tokenizer
from engine_core.structured_output.grammar_source import llguidance_grammar
from ipc.structured_output import StructuredOutput
from ipc.tokenizer_files import TOKENIZER_FILE

log = logging.getLogger(__name__)

QUEUE_TIMEOUT_S = 30.0
"""A grammar that no thread took for so long fails as one that may be tried again."""
CLOSE_TIMEOUT_S = 5.0
"""What is being compiled gets this long to end when the compiler is closed."""
NUM_THREADS = 2
"""One slow grammar does not hold up the others."""

INVALID_GRAMMAR = "invalid_grammar"
"""Error code: the request can never be answered."""
GRAMMAR_QUEUE_FULL = "grammar_queue_full"
"""Error code: the grammar may be as good as any, but was not looked at."""

OnCompiled = Callable[[RequestKey, CompiledGrammar | None, str, str], None]
"""Called with the key of the request and its grammar, or an error code and a message for its user; on any thread."""


class _Answer(NamedTuple):
    """What a request hears."""

    grammar: CompiledGrammar | None
    error_code: str = ""
    error_message: str = ""


_BUSY = _Answer(None, GRAMMAR_QUEUE_FULL, "Too many grammars are being compiled. Try again later.")


@dataclass(slots=True, eq=False)
class _Job:
    """One grammar, queued or being compiled."""

    structured_output: StructuredOutput
    queued_at: float
    """On the monotonic clock."""
    waiting: set[RequestKey] = field(default_factory=set)
    """Requests that have no answer yet."""


class GrammarCompiler:
    """Compiles for one tokenizer, which is read when the first grammar comes."""

    def __init__(
        self,
        tokenizer_dir: Path,
        vocab_size: int,
        eos_token_ids: tuple[int, ...],
        on_compiled: OnCompiled,
        *,
        time_limit_s: float = TIME_LIMIT_S,
        queue_timeout_s: float = QUEUE_TIMEOUT_S,
        num_threads: int = NUM_THREADS,
    ) -> None:
        """`vocab_size` is the model's: its tokenizer may know more tokens, or fewer."""
        self._tokenizer_file = tokenizer_dir / TOKENIZER_FILE
        self._vocab_size = vocab_size
        self._eos_token_ids = eos_token_ids
        self._on_compiled = on_compiled
        self._time_limit_s = time_limit_s
        self._queue_timeout_s = queue_timeout_s
        self._num_threads = num_threads
        self._tokenizer: LLTokenizer | None = None
        self._tokenizer_lock = threading.Lock()
        self._lock = threading.Lock()
        """Guards all that follows."""
        self._has_jobs = threading.Condition(self._lock)
        self._cache = GrammarCache()
        self._queued: OrderedDict[StructuredOutput, _Job] = OrderedDict()
        self._compiling: dict[StructuredOutput, _Job] = {}
        self._job_of: dict[RequestKey, _Job] = {}
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def compile(self, key: RequestKey, structured_output: StructuredOutput) -> None:
        """Begin to compile; returns at once. The answer may come before that."""
        with self._lock:
            if self._is_closed:
                return
            grammar = self._cache.get(structured_output)
            if grammar is None:
                self._enqueue(key, structured_output)
        if grammar is not None:
            self._on_compiled(key, grammar, "", "")

    def cancel(self, key: RequestKey) -> None:
        """Forget a request, unless it is being answered at this moment; a grammar that nobody else wants is not begun.

        Keys that wait for nothing are ignored.
        """
        with self._lock:
            job = self._job_of.pop(key, None)
            if job is None:
                return
            job.waiting.discard(key)
            if not job.waiting:
                self._queued.pop(job.structured_output, None)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Give up what is not answered, and wait for the threads.

        A compilation that takes longer than `timeout_s` is left running. Python must then not be ended in the usual
        way, which may crash under a thread in native code: `engine_core/__main__.py` uses `os._exit`.
        """
        with self._lock:
            self._is_closed = True
            self._queued.clear()
            for job in self._compiling.values():
                job.waiting.clear()
            self._job_of.clear()
            self._has_jobs.notify_all()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def build(self, structured_output: StructuredOutput, probe: GrammarProbe) -> CompiledGrammar:
        """Compile on this thread, after `probe`; raises `GrammarError` with a message for the user."""
        source = llguidance_grammar(structured_output)
        if not self._eos_token_ids:
            raise GrammarError("This model has no end-of-sequence token, so that its answers could not end.")
        probe.check(source)
        with self._tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self._tokenizer_file, self._vocab_size, self._eos_token_ids)
        return CompiledGrammar(self._tokenizer, source)

    def _enqueue(self, key: RequestKey, structured_output: StructuredOutput) -> None:
        """Join the job of an equal grammar, or begin one; with the lock held."""
        job = self._compiling.get(structured_output) or self._queued.get(structured_output)
        if job is None:
            job = self._queued[structured_output] = _Job(structured_output, time.monotonic())
            self._has_jobs.notify()
        job.waiting.add(key)
        self._job_of[key] = job
        while len(self._threads) < self._num_threads:
            thread = threading.Thread(target=self._work, name="grammar", daemon=True)
            self._threads.append(thread)
            thread.start()

    # --- threads ---

    def _work(self) -> None:
        """Compile job after job."""
        probe = GrammarProbe(
            self._tokenizer_file, self._vocab_size, self._eos_token_ids, time_limit_s=self._time_limit_s
        )
        while (job := self._wait_for_job()) is not None:
            is_late = time.monotonic() - job.queued_at > self._queue_timeout_s
            answer = _BUSY if is_late else self._try_build(job.structured_output, probe)
            with self._lock:
                del self._compiling[job.structured_output]
                if answer.grammar is not None:
                    self._cache.put(job.structured_output, answer.grammar)
                keys, job.waiting = job.waiting, set()
                for key in keys:
                    del self._job_of[key]
            for key in keys:
                self._on_compiled(key, *answer)
        probe.close()

    def _wait_for_job(self) -> _Job | None:
        """The next job; None where this thread is to end."""
        with self._lock:
            while not self._queued and not self._is_closed:
                self._has_jobs.wait()
            if self._is_closed:
                return None
            structured_output, job = self._queued.popitem(last=False)
            self._compiling[structured_output] = job
            return job

    def _try_build(self, structured_output: StructuredOutput, probe: GrammarProbe) -> _Answer:
        try:
            return _Answer(self.build(structured_output, probe))
        except GrammarError as error:
            return _Answer(None, INVALID_GRAMMAR, str(error))
        except Exception:  # the top of this thread's work for one grammar
            log.exception("a grammar could not be compiled")
            return _Answer(None, GRAMMAR_QUEUE_FULL, "The grammar could not be compiled. Try again later.")
