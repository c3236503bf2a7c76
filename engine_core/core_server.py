"""An engine core on a run dir: what it consists of, in which order that is built, and its life from loading to its end.

    `load`: LOADING ─▶ `serve`: READY ─▶ DRAINING or RETIRING ─▶ `close`

It knows nothing of the process around it: `process.py` makes it a process of its own, and whoever embeds it calls
`load`, `serve` and `close` on one thread. The I/O thread answers from the first moment, so that clients see the stages
of loading. Invariant: after `close` no thread, descriptor or lock of it is left.
Next: `step_loop.py`, and `io_thread.py`, the other thread.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from engine_core.admission import Admission
from engine_core.client_sender import LEASE_S
from engine_core.core import EngineCore, OnFinished, ignore
from engine_core.core_socket import RemoteAccess
from engine_core.crash_evidence import CrashEvidence
from engine_core.crash_journal import CrashJournal
from engine_core.device import WHOLE_MACHINE, MachineShare
from engine_core.events import Drain, DrainBegun, Event, GrammarCompiled
from engine_core.io_thread import BEAT_INTERVAL_S, IoThread
from engine_core.kv_cache.block_hash import BlockHasher
from engine_core.kv_cache.kv_cache_manager import KVCacheManager
from engine_core.metrics.engine_metrics import EngineMetrics
from engine_core.model.lora.adapter_files import open_adapters
from engine_core.model_kind import check_model_folder
from engine_core.outputs import ModelRunner, RequestKey
from engine_core.peer_cores import PeerCores, announce_journal
from engine_core.quarantine import LearnEvidence, Quarantine
from engine_core.request_intake import RequestIntake
from engine_core.scheduler.drafts import Drafts
from engine_core.scheduler.scheduler import Scheduler
from engine_core.step_clock import ClockedRunner, StepClock
from engine_core.step_loop import StepLoop
from engine_core.stop_check import StopCheck
from engine_core.structured_output.grammar import CompiledGrammar
from engine_core.structured_output.grammar_compiler import GrammarCompiler
from engine_core.tracing import RequestSpans
from ipc.config import (
    FAKE_MODEL,
    CacheConfig,
    FakeModelConfig,
    FrontendConfig,
    LauncherConfig,
    ModelConfig,
    SchedulerConfig,
    TracingConfig,
    load_section,
)
from ipc.endpoint_config import EndpointConfig
from ipc.endpoints import RunDir
from ipc.messages import Welcome
from ipc.process import start_ticks
from ipc.tokenizer_files import content_fingerprint
from ipc.tracing import SpanExport
from ipc.version import __version__

log = logging.getLogger(__name__)

_LOCK_TIMEOUT_S = 1.0
"""How long a core that still dies is waited for."""


@dataclass(frozen=True, slots=True)
class CorePlace:
    """Which of a server's cores this is, in which process of it, and what it may take of the machine."""

    index: int = 0
    slot: int = 0
    """Which socket and lock are its own."""
    is_standby: bool = False
    """Whether another one serves in the other slot while it loads."""
    share: MachineShare = WHOLE_MACHINE


ONLY_CORE = CorePlace()


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """The settings that a core reads."""

    run_dir: RunDir
    """This core's own."""
    model: ModelConfig
    cache: CacheConfig
    scheduler: SchedulerConfig
    fake: FakeModelConfig
    launcher: LauncherConfig
    endpoint: EndpointConfig
    tracing: TracingConfig
    served_model_name: tuple[str, ...]
    """What users call the model; the first name is that in its spans."""
    place: "CorePlace"

    @classmethod
    def read(cls, config_file: Path, place: "CorePlace") -> "CoreConfig":
        """From the file that the launcher wrote into the run dir; raises `ConfigError` where it is damaged."""
        return cls(
            RunDir(config_file.parent).of_core(place.index),
            load_section(config_file, ModelConfig),
            load_section(config_file, CacheConfig),
            load_section(config_file, SchedulerConfig),
            load_section(config_file, FakeModelConfig),
            load_section(config_file, LauncherConfig),
            load_section(config_file, EndpointConfig),
            load_section(config_file, TracingConfig),
            load_section(config_file, FrontendConfig).served_model_name,
            place,
        )


ReportLoading = Callable[[str], None]
LoadRunner = Callable[[CoreConfig, ReportLoading], ModelRunner]
"""Makes the model runner, telling its stages; raises `ConfigError` where it cannot."""


def load_runner(config: CoreConfig, report: ReportLoading) -> ModelRunner:
    """The runner that the settings name.

    They are imported here because that takes seconds, during which the I/O thread answers already.
    """
    if config.model.model == FAKE_MODEL:
        from engine_core.model.fake_runner import FakeModelRunner

        return FakeModelRunner(config.model, config.cache, config.fake, config.run_dir.fake_tokenizer_dir)
    check_model_folder(Path(config.model.model))  # what cannot be loaded is told at once
    open_adapters(config.model)
    report("importing torch")
    from engine_core.model.loader import load_model_runner

    return load_model_runner(config.model, config.cache, config.scheduler, report, config.place.share)


@dataclass(frozen=True, slots=True)
class _LoadedCore:
    """What there is once the model is loaded."""

    core: EngineCore
    loop: StepLoop
    grammars: GrammarCompiler
    welcome: Welcome
    intake: RequestIntake
    admission: Admission
    metrics: EngineMetrics


class CoreServer:
    """Everything that one engine core consists of."""

    def __init__(
        self,
        config_file: Path,
        *,
        on_io_failure: Callable[[], None],
        num_descriptors: int = sys.maxsize,
        place: CorePlace = ONLY_CORE,
    ) -> None:
        """A standby core is found by clients only once it is ready, so that another one may serve while it loads.

        Args:
            config_file: `config.json` in the run dir of the server.
            on_io_failure: called by the I/O thread when it fails: a core that nobody can reach must not live.
            num_descriptors: how many files this process may have open.
            place: which core it is.

        Raises:
            ConfigError: wrong settings, or another core runs in the slot.
        """
        self._config = CoreConfig.read(config_file, place)
        self._server_run_dir = RunDir(config_file.parent)
        self._run_dir = self._config.run_dir
        self._loaded: _LoadedCore | None = None
        self._journal: CrashJournal | None = None
        self._peers: PeerCores | None = None
        self._export: SpanExport | None = None
        self._spans: RequestSpans | None = None
        self._inbox: SimpleQueue[Event] = SimpleQueue()
        self._remote = RemoteAccess.of(self._config.endpoint, place.index)
        self._lock = self._run_dir.lock_core(place.slot, wait_s=_LOCK_TIMEOUT_S)
        self._epoch = time.time_ns()
        self._clock = StepClock(self._config.launcher.hang_timeout)
        socket_path, remote_now = self._run_dir.slot_socket(place.slot), None if place.is_standby else self._remote
        self._io = IoThread(
            socket_path, self._epoch, self._inbox, self._clock, on_io_failure, num_descriptors, remote_now
        )
        if not place.is_standby:
            self._run_dir.publish_core(place.slot)
        self._io.start()

    def load(self, load_runner: LoadRunner = load_runner) -> None:
        """Load the model with `load_runner`, and build everything on top of it.

        Raises:
            ConfigError: the model cannot be loaded, or the settings contradict each other.
        """
        cache, scheduling = self._config.cache, self._config.scheduler
        self._export = SpanExport.of(self._config.tracing, "core")
        runner = load_runner(self._config, self._io.report_loading)
        hasher = BlockHasher(cache.block_size)
        has_prefix_cache = cache.enable_prefix_caching and runner.info.num_blocks > 0
        kv_cache = KVCacheManager(runner.info.num_blocks, hasher, enable_prefix_caching=has_prefix_cache)
        admission = Admission(scheduling, self._io.publish_load)
        quarantine = self._make_quarantine()
        stop_check = StopCheck(runner.info.eos_token_ids, runner.info.max_model_len)
        grammars = GrammarCompiler(
            Path(runner.info.tokenizer_dir), runner.info.vocab_size, runner.info.eos_token_ids, self._on_grammar
        )
        drafts = Drafts.of(scheduling, kv_cache, runner.info.max_model_len)
        scheduler = Scheduler(scheduling, kv_cache, drafts, has_whole_prompts=runner.info.is_encoder)
        clocked = ClockedRunner(runner, self._clock)
        metrics = EngineMetrics(scheduler, has_prefix_cache=has_prefix_cache, adapters=runner.info.adapters)
        on_finished: OnFinished = ignore
        if self._export is not None:
            names = (*self._config.served_model_name, runner.info.model_id)
            self._spans = RequestSpans(self._export, names[0])
            on_finished = self._spans.on_finished
        core = EngineCore(
            clocked, scheduler, kv_cache, stop_check, admission, grammars, quarantine, metrics, on_finished
        )
        prefix_hasher = hasher if has_prefix_cache else None
        self._loaded = _LoadedCore(
            core,
            StepLoop(core, self._io, self._inbox, self._clock, self._config.launcher.drain_timeout),
            grammars,
            self._make_welcome(runner),
            RequestIntake(runner.info, prefix_hasher, admission, scheduling, quarantine),
            admission,
            metrics,
        )

    def name_of(self, key: RequestKey) -> str:
        """The name that its user gave a request; empty where there is no model."""
        return "" if self._loaded is None else self._loaded.core.name_of(key)

    def serve(self) -> None:
        """Accept requests, and step until told to drain.

        Raises:
            RuntimeError: every step fails.
        """
        loaded = self._loaded
        assert loaded is not None
        self._io.become_ready(loaded.welcome, loaded.intake, loaded.admission, loaded.metrics)
        if self._config.place.is_standby:
            self._run_dir.publish_core(self._config.place.slot)
            if self._remote is not None:
                self._io.open_to_remote(self._remote)
        loaded.loop.run()

    def drain(self) -> None:
        """Have `serve` finish what runs, then return; may be called from any thread and from signal handlers."""
        self._inbox.put(Drain())

    def give_up(self) -> None:
        """The same where the I/O thread has failed, which would say when draining has begun."""
        self._inbox.put(Drain())
        self._inbox.put(DrainBegun())

    def close(self, reason: str = "drained", *, grammars_timeout_s: float = 0.0) -> None:
        """Say good-bye to all clients and let go of everything, whatever was reached of `load` and `serve`.

        A grammar that takes longer to compile than `grammars_timeout_s` is left running.
        """
        if self._loaded is not None:
            self._loaded.grammars.close(grammars_timeout_s)
            self._loaded = None  # and with it the model, if nobody else has it
        self._io.stop(reason)
        if self._peers is not None:
            self._peers.close()
        if self._journal is not None:
            self._journal.close()
        os.close(self._lock)
        if self._spans is not None:  # last, as a collector may keep us waiting
            self._spans.close()
        if self._export is not None:
            self._export.close()

    def _on_grammar(
        self, key: RequestKey, grammar: CompiledGrammar | None, error_code: str, error_message: str
    ) -> None:
        """Called by a thread of the compiler."""
        self._inbox.put(GrammarCompiled(key, grammar, error_code, error_message))

    def _make_quarantine(self) -> Quarantine:
        """With the suspects of all cores of the server that died; a reload forgets them: its model may be another."""
        scheduling = self._config.scheduler
        max_tokens_per_step = 1 + (scheduling.speculative_tokens if scheduling.speculative != "off" else 0)
        evidence = CrashEvidence()
        if not self._config.place.is_standby:
            evidence = self._evidence_after(evidence, max_tokens_per_step)
        if evidence.suspects:
            self._clock.suspect_first_step()
        try:
            own_file = self._run_dir.slot_journal_file(self._config.place.slot)
            self._journal = CrashJournal(own_file, evidence.suspects.values(), evidence.acquittals.values())
            if self._config.place.share.num_cores > 1:
                announce_journal(self._server_run_dir)
        except OSError as error:
            log.warning("cannot keep a journal (%s): a request that kills the core is not found out", error.strerror)
        return Quarantine(self._journal, evidence, self._learn_from_others(max_tokens_per_step))

    def _evidence_after(self, known: CrashEvidence, max_tokens_per_step: int) -> CrashEvidence:
        """What is known with what all journals of the server say."""
        return known.with_journals(self._server_run_dir.journal_files(), max_tokens_per_step, time.time())

    def _learn_from_others(self, max_tokens_per_step: int) -> LearnEvidence | None:
        """How this core learns that another one has died; None where there is no other."""
        place, server = self._config.place, self._server_run_dir
        others = [server.of_core(index) for index in range(place.share.num_cores) if index != place.index]
        if not others:
            return None
        peers = self._peers = PeerCores(server, others)
        return lambda known: self._evidence_after(known, max_tokens_per_step) if peers.has_news() else None

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
            block_size=self._config.cache.block_size,
            num_blocks=info.num_blocks,
            max_num_seqs=self._config.scheduler.max_num_seqs,
            embedding_size=info.embedding_size,
            max_queued_requests=self._config.scheduler.max_queued_requests,
            max_queued_tokens=self._config.scheduler.max_queued_tokens,
            beat_interval_ms=int(BEAT_INTERVAL_S * 1000),
            lease_ms=int(LEASE_S * 1000),
            dtype=info.dtype,
            device=info.device,
            core_version=__version__,
            pooling=info.pooling,
            request_timeout_ms=int(self._config.scheduler.request_timeout * 1000),
            tokenizer_fingerprint=content_fingerprint(Path(info.tokenizer_dir)),
            can_generate=not info.is_encoder,
            adapters=tuple(info.adapters),
        )
