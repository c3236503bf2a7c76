"""The engine core as a process: what is built, in which order, and its life from loading to exit.

    LOADING ─▶ READY ─▶ DRAINING or RETIRING ─▶ exit 0        exit 1: configuration; exit 70: a bug

A signal ends the process, and so does the control call RETIRE, once another core has taken its place: then its clients
take what has not begun there. After the call DRAIN it stays, and RESUME makes it READY again.

The I/O thread answers from the first moment, so that clients see the stages of loading. The step loop runs on the main
thread and blocks while there is nothing to do.
"""

import contextlib
import gc
import logging
import os
import signal
import time
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue

from engine_core.admission import Admission
from engine_core.client_sender import LEASE_S
from engine_core.core import EngineCore, EngineCoreOutputs
from engine_core.core_socket import RemoteAccess
from engine_core.crash_journal import CrashJournal
from engine_core.events import AbortRequests, AddRequest, ControlCall, Drain, DrainBegun, Event, GrammarCompiled
from engine_core.io_thread import BEAT_INTERVAL_S, IoThread
from engine_core.kv_cache.block_hash import BlockHasher
from engine_core.kv_cache.kv_cache_manager import KVCacheManager
from engine_core.model_kind import check_model_folder
from engine_core.outputs import ModelRunner, RequestKey
from engine_core.quarantine import Quarantine, suspects_after
from engine_core.request_intake import RequestIntake
from engine_core.request_names import RequestNames
from engine_core.scheduler.drafts import Drafts
from engine_core.scheduler.scheduler import Scheduler
from engine_core.step_clock import ClockedRunner, StepClock
from engine_core.stop_check import StopCheck
from engine_core.structured_output.grammar import CompiledGrammar
from engine_core.structured_output.grammar_compiler import GrammarCompiler
from engine_core.tokenizer_export import content_fingerprint
from ipc.config import (
    FAKE_MODEL,
    CacheConfig,
    EndpointConfig,
    FakeModelConfig,
    LauncherConfig,
    ModelConfig,
    SchedulerConfig,
    load_section,
)
from ipc.endpoints import CORE_SLOTS, RunDir
from ipc.messages import CORE_RETIRED, Call, CallMethod, CoreState, Reply, Welcome
from ipc.process import raise_descriptor_limit, start_ticks

log = logging.getLogger(__name__)

_LOCK_TIMEOUT_S = 1.0
"""How long a core that still dies is waited for."""
_RETIRING_S = 2.0
"""A core that retires stays for so long, even if it is idle, where clients do not leave it before."""
_POLL_INTERVAL_S = 0.05
"""How often deadlines are looked at while grammars are compiled and nothing runs."""


class EngineCoreProcess:
    """Everything that one engine-core process consists of."""

    def __init__(self, config_file: Path, *, slot: int = 0, is_standby: bool = False) -> None:
        """A standby core is found by clients only once it is ready, so that another one may serve while it loads.

        Raises:
            ConfigError: wrong settings, or another core runs in the slot.
        """
        self._model = load_section(config_file, ModelConfig)
        self._cache = load_section(config_file, CacheConfig)
        self._scheduling = load_section(config_file, SchedulerConfig)
        self._fake = load_section(config_file, FakeModelConfig)
        launcher_config = load_section(config_file, LauncherConfig)
        self._drain_timeout_s = launcher_config.drain_timeout
        self._run_dir = RunDir(config_file.parent)
        self._inbox: SimpleQueue[Event] = SimpleQueue()
        self._drain_deadline: float | None = None
        self._has_drain_begun = False
        self._is_retiring = False
        self._farewell_deadline = 0.0
        self._lock = self._run_dir.lock_core(slot, wait_s=_LOCK_TIMEOUT_S)
        self._epoch = time.time_ns()
        self._clock = StepClock(launcher_config.hang_timeout)
        self._remote = RemoteAccess.of(load_section(config_file, EndpointConfig))
        socket_path, remote_now = self._run_dir.slot_socket(slot), None if is_standby else self._remote
        self._io = IoThread(socket_path, self._epoch, self._inbox, self._clock, raise_descriptor_limit(), remote_now)
        self._slot = slot
        self._is_standby = is_standby
        if not is_standby:
            self._run_dir.publish_core(slot)

    def run(self) -> None:
        """Load, serve until told to drain, and leave.

        Raises:
            ConfigError: the model cannot be loaded, or the settings contradict each other.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))  # nothing to drain while loading
        self._io.start()
        runner = self._load_runner()
        hasher = BlockHasher(self._cache.block_size)
        has_prefix_cache = self._cache.enable_prefix_caching and runner.info.num_blocks > 0
        kv_cache = KVCacheManager(runner.info.num_blocks, hasher, enable_prefix_caching=has_prefix_cache)
        admission = Admission(self._scheduling, self._io.publish_load)
        quarantine = self._make_quarantine()
        stop_check = StopCheck(runner.info.eos_token_ids, runner.info.max_model_len)
        grammars = GrammarCompiler(
            Path(runner.info.tokenizer_dir), runner.info.vocab_size, runner.info.eos_token_ids, self._on_grammar
        )
        drafts = Drafts.of(self._scheduling, kv_cache, runner.info.max_model_len)
        scheduler = Scheduler(self._scheduling, kv_cache, drafts, has_whole_prompts=runner.info.is_encoder)
        clocked = ClockedRunner(runner, self._clock)
        self._core = EngineCore(clocked, scheduler, kv_cache, stop_check, admission, grammars, quarantine)
        RequestNames(self._core.name_of).install()
        gc.collect()
        gc.freeze()  # what is alive now stays alive: spare the collector from walking it
        gc.enable()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._inbox.put(Drain()))
        self._io.become_ready(
            self._make_welcome(runner),
            RequestIntake(
                runner.info,
                hasher if has_prefix_cache else None,
                admission,
                self._scheduling,
                quarantine,
            ),
            admission,
        )
        if self._is_standby:
            self._run_dir.publish_core(self._slot)
            if self._remote is not None:
                self._io.open_to_remote(self._remote)
        self._serve()
        grammars.close(timeout_s=0.0)  # this process ends by `os._exit`, which minds no threads
        self._io.stop("drained")

    def _on_grammar(
        self, key: RequestKey, grammar: CompiledGrammar | None, error_code: str, error_message: str
    ) -> None:
        """Called by a thread of the compiler."""
        self._inbox.put(GrammarCompiled(key, grammar, error_code, error_message))

    def _make_quarantine(self) -> Quarantine:
        """With the suspects of the cores that died on this run dir."""
        max_tokens_per_step = 1 + (self._scheduling.speculative_tokens if self._scheduling.speculative != "off" else 0)
        journals = [self._run_dir.slot_journal_file(slot) for slot in CORE_SLOTS]
        suspects = suspects_after(journals, max_tokens_per_step, time.time())
        if suspects:
            self._clock.suspect_first_step()
        journal: CrashJournal | None = None
        try:
            journal = CrashJournal(self._run_dir.slot_journal_file(self._slot))
        except OSError as error:
            log.warning("cannot keep a journal (%s): a request that kills the core is not found out", error.strerror)
        return Quarantine(journal, suspects)

    def _load_runner(self) -> ModelRunner:
        # The runners are imported here because that takes seconds, during which the I/O thread answers already.
        if self._model.model == FAKE_MODEL:
            from engine_core.model.fake_runner import FakeModelRunner

            return FakeModelRunner(self._model, self._cache, self._fake, self._run_dir.fake_tokenizer_dir)
        check_model_folder(Path(self._model.model))  # what cannot be loaded is told at once
        self._io.report_loading("importing torch")
        from engine_core.model.loader import load_model_runner

        return load_model_runner(self._model, self._cache, self._scheduling, self._io.report_loading)

    def _make_welcome(self, runner: ModelRunner) -> Welcome:
        info = runner.info
        return Welcome(
            epoch=self._epoch,
            core_pid=os.getpid(),
            core_pid_start_ticks=start_ticks(os.getpid()),
            model_id=info.model_id,
            model_fingerprint=info.fingerprint,
            tokenizer_dir=info.tokenizer_dir,
            vocab_size=info.vocab_size,
            eos_token_ids=info.eos_token_ids,
            max_model_len=info.max_model_len,
            block_size=self._cache.block_size,
            num_blocks=info.num_blocks,
            max_num_seqs=self._scheduling.max_num_seqs,
            embedding_size=info.embedding_size,
            max_queued_requests=self._scheduling.max_queued_requests,
            max_queued_tokens=self._scheduling.max_queued_tokens,
            beat_interval_ms=int(BEAT_INTERVAL_S * 1000),
            lease_ms=int(LEASE_S * 1000),
            dtype=info.dtype,
            device=info.device,
            core_version=version("fast-inference"),
            pooling=info.pooling,
            request_timeout_ms=int(self._scheduling.request_timeout * 1000),
            tokenizer_fingerprint=content_fingerprint(Path(info.tokenizer_dir)),
            can_generate=not info.is_encoder,
        )

    # --- the step loop ---

    def _serve(self) -> None:
        """Step while there is work, block while there is none, until drained."""
        while not self._is_drained():
            if self._core.has_requests:
                self._step()
                self._check_idle()
            elif not self._core.is_empty:
                self._send(self._core.fail_overdue())
            self._take_events()

    def _step(self) -> None:
        self._clock.begin()
        outputs = self._core.step()
        self._clock.end()
        self._io.send_outputs(outputs, self._core.load)
        if self._core.is_broken:
            self._io.announce_death("every step fails")
            raise RuntimeError("every step fails; giving up, so that a new core can take over")

    def _check_idle(self) -> None:
        if not self._core.is_empty:
            return
        try:
            self._core.check_idle()
        except AssertionError:
            log.exception("blocks or requests leaked")

    def _is_drained(self) -> bool:
        if self._drain_deadline is None or not self._has_drain_begun:
            return False
        if not self._core.is_empty and time.monotonic() > self._drain_deadline:
            code = CORE_RETIRED if self._is_retiring else "draining"
            outputs = self._core.fail_all_requests(code, "The engine stopped before this request was done.")
            self._io.send_outputs(outputs, self._core.load)
        return self._core.is_empty and not self._is_awaited()

    def _is_awaited(self) -> bool:
        """True while clients of a retiring core may still turn to its successor, so that they never have none."""
        return self._io.num_clients > 0 and time.monotonic() < self._farewell_deadline

    def _take_events(self) -> None:
        """Handle everything in the inbox; where there is nothing else to do, wait for the first."""
        if self._core.has_requests:
            wait_s: float | None = 0.0
        else:
            wait_s = None if self._core.is_empty and self._drain_deadline is None else _POLL_INTERVAL_S
        with contextlib.suppress(Empty):
            self._handle(self._inbox.get(timeout=wait_s) if wait_s != 0.0 else self._inbox.get_nowait())
            while True:
                self._handle(self._inbox.get_nowait())

    def _handle(self, event: Event) -> None:
        if isinstance(event, AddRequest):
            self._send(self._core.add_request(event.request))
        elif isinstance(event, AbortRequests):
            self._send_last(self._core.abort_requests(event.keys, is_complete=event.is_complete))
        elif isinstance(event, GrammarCompiled):
            self._send_last(self._core.on_grammar(event.key, event.grammar, event.error_code, event.error_message))
        elif isinstance(event, ControlCall):
            self._io.send_reply(event.client_slot, self._answer(event.call))
        elif isinstance(event, DrainBegun):
            self._has_drain_begun = self._drain_deadline is not None  # else it was a call, and may be taken back
            if self._is_retiring:
                self._io.hand_back(self._core.withdraw_unstarted())
        elif self._drain_deadline is None:
            self._begin_the_end(CoreState.DRAINING)

    def _begin_the_end(self, state: CoreState) -> None:
        self._drain_deadline = time.monotonic() + self._drain_timeout_s
        self._io.begin_draining(state)

    def _send(self, outputs: EngineCoreOutputs) -> None:
        if outputs:
            self._io.send_outputs(outputs, self._core.load)

    def _answer(self, call: Call) -> Reply:
        """Do what a call says, which `control_calls` has allowed."""
        match call.method:
            case CallMethod.STATS:
                edge = {"num_bad_messages": self._io.num_bad_messages, **self._io.connection_stats}
                return Reply(call.call_id, {**self._core.stats, **edge})
            case CallMethod.RESET_PREFIX_CACHE:
                return Reply(call.call_id, {"num_blocks": self._core.reset_prefix_cache()})
            case CallMethod.DRAIN | CallMethod.RESUME | CallMethod.RETIRE if self._drain_deadline is not None:
                return Reply(call.call_id, error="the engine is stopping")
            case CallMethod.RETIRE:
                self._is_retiring = True
                self._farewell_deadline = time.monotonic() + _RETIRING_S
                self._begin_the_end(CoreState.RETIRING)
                return Reply(call.call_id)
            case CallMethod.DRAIN:
                self._io.begin_draining()
                return Reply(call.call_id)
            case CallMethod.RESUME:
                self._io.end_draining()
                return Reply(call.call_id)
            case CallMethod.ABORT:
                keys = self._core.keys_of_flow(_text_argument(call, "flow"))
                self._send_last(self._core.abort_requests(keys))
                return Reply(call.call_id, {"num_aborted": len(keys)})
            case CallMethod.CANCEL:
                external_id = _text_argument(call, "id")
                assert external_id is not None, "control_calls lets nothing else pass"
                num_cancelled, outputs = self._core.cancel_requests(external_id, _text_argument(call, "flow"))
                self._send_last(outputs)
                return Reply(call.call_id, {"num_cancelled": num_cancelled})
            case CallMethod.PING:
                return Reply(call.call_id)

    def _send_last(self, outputs: EngineCoreOutputs) -> None:
        """Send what ended requests, after which there may be none left."""
        self._send(outputs)
        self._check_idle()


def _text_argument(call: Call, name: str) -> str | None:
    """An argument that `control_calls` has checked, or None if it is not there."""
    value = call.arguments.get(name)
    assert value is None or isinstance(value, str), "control_calls lets nothing else pass"
    return value
