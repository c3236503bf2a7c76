"""Real objects with sensible defaults, for tests that care about one field."""

import itertools
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

from engine_core.admission import Admission
from engine_core.core import EngineCore, EngineCoreOutputs, OnFinished, ignore
from engine_core.kv_cache.block_hash import BlockHasher
from engine_core.kv_cache.kv_cache_manager import KVCacheManager
from engine_core.metrics.engine_metrics import EngineMetrics
from engine_core.model.fake_runner import FakeModelRunner
from engine_core.outputs import ModelRunner, RequestKey
from engine_core.quarantine import Quarantine
from engine_core.request import ClientSlot, Request
from engine_core.request_intake import RequestIntake
from engine_core.request_times import RequestTimes
from engine_core.scheduler.drafts import Drafts
from engine_core.scheduler.scheduler import Scheduler
from engine_core.stop_check import StopCheck
from engine_core.structured_output.grammar_compiler import GrammarCompiler
from ipc.config import CacheConfig, FakeModelConfig, ModelConfig, SchedulerConfig
from ipc.messages import Add, ClientRole, Finished, RequestId, Task, Welcome
from ipc.sampling_params import SamplingParams

BLOCK_SIZE = 16
_keys = itertools.count(1)


def make_params(**fields) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 8, "temperature": 0.0, "ignore_eos": True, **fields})


def make_request(prompt: Sequence[int] | int = 20, *, arrived_at: float | None = None, **fields) -> Request:
    """A request with this prompt, or with this many tokens."""
    key = next(_keys)
    token_ids = array("i", range(prompt) if isinstance(prompt, int) else prompt)
    defaults = {
        "key": RequestKey(key),
        "client_slot": ClientSlot(1),
        "request_id": RequestId(key),
        "task": Task.GENERATE,
        "sampling_params": make_params(),
        "token_ids": token_ids,
        "num_prompt_tokens": len(token_ids),
        "times": RequestTimes() if arrived_at is None else RequestTimes(arrived_at),
    }
    return Request(**{**defaults, **fields})


def make_kv_cache(num_blocks: int = 32, *, enable_prefix_caching: bool = True) -> KVCacheManager:
    return KVCacheManager(num_blocks, BlockHasher(BLOCK_SIZE), enable_prefix_caching=enable_prefix_caching)


def make_scheduler(kv_cache: KVCacheManager | None = None, *, has_whole_prompts: bool = False, **settings) -> Scheduler:
    config = SchedulerConfig(**{"max_num_seqs": 8, "max_num_batched_tokens": 64, **settings})
    kv_cache = kv_cache or make_kv_cache()
    drafts = Drafts.of(config, kv_cache, max_model_len=kv_cache.num_blocks * kv_cache.block_size)
    return Scheduler(config, kv_cache, drafts, has_whole_prompts=has_whole_prompts)


def make_fake_runner(folder: Path, *, num_blocks: int = 64, faults: str = "") -> FakeModelRunner:
    cache = CacheConfig(block_size=BLOCK_SIZE, num_blocks=num_blocks)
    return FakeModelRunner(ModelConfig(model="fake"), cache, FakeModelConfig(fake_faults=faults), folder)


def make_welcome(**fields) -> Welcome:
    """What some core says about itself."""
    defaults = {
        "epoch": 5,
        "core_pid": 1,
        "core_pid_start_ticks": 2,
        "model_id": "m",
        "model_fingerprint": "f",
        "tokenizer_dir": "/t",
        "vocab_size": 10,
        "eos_token_ids": (1,),
        "max_model_len": 100,
        "block_size": 16,
        "num_blocks": 4,
        "max_num_seqs": 2,
        "embedding_size": 0,
        "max_queued_requests": 1,
        "max_queued_tokens": 1,
        "beat_interval_ms": 500,
        "lease_ms": 1000,
        "dtype": "float32",
        "device": "cpu",
        "core_version": "0",
    }
    return Welcome(**{**defaults, **fields})


class CoreHarness:
    """An engine core around any model runner, stepped by the test; one client."""

    def __init__(
        self,
        runner: ModelRunner,
        *,
        block_size: int = BLOCK_SIZE,
        quarantine: Quarantine | None = None,
        on_finished: OnFinished = ignore,
        **settings,
    ) -> None:
        config = SchedulerConfig(**{"max_num_seqs": 8, "max_num_batched_tokens": 64, **settings})
        hasher = BlockHasher(block_size)
        num_blocks = runner.info.num_blocks
        self.kv_cache = KVCacheManager(num_blocks, hasher, enable_prefix_caching=num_blocks > 0)
        drafts = Drafts.of(config, self.kv_cache, runner.info.max_model_len)
        self.scheduler = Scheduler(config, self.kv_cache, drafts, has_whole_prompts=runner.info.is_encoder)
        admission = Admission(config)
        self.quarantine = quarantine or Quarantine()
        self.intake = RequestIntake(runner.info, hasher, admission, config, self.quarantine)
        stop_check = StopCheck(runner.info.eos_token_ids, runner.info.max_model_len)
        info = runner.info
        self._compiled = compiled = SimpleQueue()  # the compiler's threads know it, and not what holds the model
        grammars = GrammarCompiler(
            Path(info.tokenizer_dir), info.vocab_size, info.eos_token_ids, lambda *result: compiled.put(result)
        )
        self.metrics = EngineMetrics(self.scheduler, adapters=info.adapters)
        self.core = EngineCore(
            runner,
            self.scheduler,
            self.kv_cache,
            stop_check,
            admission,
            grammars,
            self.quarantine,
            self.metrics,
            on_finished,
        )
        self.keys: dict[int, RequestKey] = {}
        self.token_ids: dict[int, list[int]] = {}
        self.finished: dict[int, Finished] = {}
        self.embeddings: dict[int, list[float]] = {}
        self.logprobs: dict[int, list[tuple[int, list[int], list[float]]]] = defaultdict(list)
        """Of each request: rank, token ids and values of each row, those of the prompt first."""
        self.num_prompt_logprobs: dict[int, int] = {}
        self._ids = itertools.count(1)

    def add(
        self,
        prompt: Sequence[int],
        task: Task = Task.GENERATE,
        num_resumed_tokens: int = 0,
        adapter: str = "",
        traceparent: str = "",
        **params,
    ) -> int:
        """Add a request; returns its id."""
        add = Add(RequestId(0), array("i", prompt), make_params(**params), task, traceparent=traceparent)
        return self.submit(replace(add, num_resumed_tokens=num_resumed_tokens, adapter=adapter))

    def submit(self, add: Add, role: ClientRole = ClientRole.FRONTEND) -> int:
        """Add a request, whose id is drawn here; returns it."""
        request_id = RequestId(next(self._ids))
        request = self.intake.accept(replace(add, request_id=request_id), ClientSlot(1), role)
        self.keys[request_id] = request.key
        self.token_ids[request_id] = []
        self.take(self.core.add_request(request))
        if add.sampling_params.structured_output:
            self.take(self.core.on_grammar(*self._compiled.get(timeout=10)))
        return request_id

    def abort(self, request_id: int, **how) -> None:
        self.take(self.core.abort_requests([self.keys[request_id]], **how))

    def step(self) -> None:
        self.take(self.core.step())

    def run(self, max_steps: int = 10_000) -> None:
        """Step until nothing is left to do."""
        for _ in range(max_steps):
            if not self.core.has_requests:
                return
            self.step()
        raise AssertionError(f"not done after {max_steps} steps")

    def check_idle(self) -> None:
        """Nothing is left, and nothing is inconsistent."""
        self.core.check_idle()
        self.kv_cache.check_integrity()

    def take(self, outputs: EngineCoreOutputs) -> None:
        for client in outputs.values():
            for request_id, token_id in zip(client.request_ids, client.token_ids, strict=True):
                self.token_ids[request_id].append(token_id)
            start = 0
            rows = zip(client.logprob_request_ids, client.logprob_counts, client.logprob_ranks, strict=True)
            for request_id, count, rank in rows:
                entries = slice(start, start + count)
                row = (rank, client.logprob_token_ids[entries].tolist(), client.logprobs[entries].tolist())
                self.logprobs[request_id].append(row)
                start += count
            for started in client.started:
                self.num_prompt_logprobs[started.request_id] = started.num_prompt_logprobs
            for finished in client.finished:
                assert finished.request_id not in self.finished, "two terminal outputs for one request"
                self.finished[finished.request_id] = finished
            size = len(client.embeddings) // max(1, len(client.embedding_request_ids))
            for row, request_id in enumerate(client.embedding_request_ids):
                self.embeddings[request_id] = client.embeddings[row * size : (row + 1) * size].tolist()
