"""An engine core in this process, with a batch of requests that all decode; for scripts that look into a step.

A prompt's tokens but the last are never computed: they only take their blocks, whose content is not read as text by
anybody, so that a batch with a long context is there at once. Steps then do all that they do in a server, with as many
keys and values to read. Invariant: after `DecodeBatch(…)` each step gives one token for every request of the batch,
until `num_steps` were made.
Next: `engine_core/core.py`.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from engine_core.admission import Admission
from engine_core.core import ClientOutputs, EngineCore
from engine_core.kv_cache.block_hash import BlockHasher
from engine_core.kv_cache.kv_cache_manager import KVCacheManager
from engine_core.metrics.engine_metrics import EngineMetrics
from engine_core.model.model_runner import TorchModelRunner
from engine_core.outputs import ModelInfo, ModelRunner, ModelRunnerOutput, RequestKey, SchedulerOutput
from engine_core.quarantine import Quarantine
from engine_core.request import ClientSlot
from engine_core.request_intake import RequestIntake
from engine_core.scheduler.scheduler import Scheduler
from engine_core.stop_check import StopCheck
from engine_core.structured_output.grammar_compiler import GrammarCompiler
from ipc import codec
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.errors import ConfigError
from ipc.messages import Add, ClientRole, RequestId, Step
from ipc.sampling_params import SamplingParams

BLOCK_SIZE = 32
_CLIENT = ClientSlot(1)
_NO_STEP_IS_TOO_LONG_S = 3600.0
_CACHED_VALUE = 1 / 64
_MAX_STEPS_TO_START = 100
"""Steps until all requests decode."""


def blocks_of(num_seqs: int, context: int, num_steps: int) -> int:
    """KV cache blocks for a batch, those included that the scheduler keeps free."""
    num_blocks = num_seqs * (-(-(context + num_steps) // BLOCK_SIZE) + 1)
    return num_blocks + num_blocks // 50 + 1


def load_runner(
    model: ModelConfig, num_seqs: int, num_blocks: int | None, report: Callable[[str], None]
) -> TorchModelRunner:
    """Load a model for batches of up to so many requests; `model.model` is a folder.

    The whole KV cache is written once, since memory that never was reads as one and the same page.

    Raises:
        ConfigError: the model cannot be run, or so many blocks do not fit.
    """
    from engine_core.model.loader import load_model_runner

    limits = {"max_num_seqs": num_seqs, "max_num_batched_tokens": max(2048, num_seqs)}
    cache = CacheConfig.model_validate({"block_size": BLOCK_SIZE, "num_blocks": num_blocks})
    runner = load_model_runner(model, cache, SchedulerConfig.model_validate(limits), report)
    if not isinstance(runner, TorchModelRunner):
        raise ConfigError(f"{model.model} gives no text: there is nothing to decode")
    kv_tensors = runner._kv_tensors  # nobody else has a use for it
    for tensor in (*kv_tensors.keys, *kv_tensors.values):
        tensor.fill_(_CACHED_VALUE)
    return runner


def build_core(runner: ModelRunner, config: SchedulerConfig) -> tuple[EngineCore, Scheduler, RequestIntake]:
    """An engine core around a runner, its scheduler, and what makes its requests."""
    info = runner.info
    hasher, admission = BlockHasher(BLOCK_SIZE), Admission(config)
    kv_cache = KVCacheManager(info.num_blocks, hasher, enable_prefix_caching=True)
    scheduler = Scheduler(config, kv_cache)
    core = EngineCore(
        runner,
        scheduler,
        kv_cache,
        StopCheck(info.eos_token_ids, info.max_model_len),
        admission,
        GrammarCompiler(Path(info.tokenizer_dir), info.vocab_size, info.eos_token_ids, lambda *_: None),
        quarantine := Quarantine(),
        EngineMetrics(scheduler),
    )
    return core, scheduler, RequestIntake(info, hasher, admission, config, quarantine)


class DecodeBatch:
    """Requests that decode, and the core that they are in."""

    def __init__(
        self,
        runner: ModelRunner,
        num_seqs: int,
        context: int,
        num_steps: int,
        params: SamplingParams | None = None,
        adapters: Sequence[str] = ("",),
    ) -> None:
        """Requests whose prompts have `context - 1` tokens, so that the first step has `context` to attend to.

        They sample as `params` say, greedily where None, each with a seed of its own, and have `adapters` in turn.
        """
        self.runner = runner
        self.num_seqs = num_seqs
        config = _one_step_for_all_prompts(num_seqs, context)
        info = runner.info
        self.core, self.scheduler, intake = build_core(_PromptSkippingRunner(runner), config)
        self._keys: list[RequestKey] = []
        max_tokens = num_steps + _MAX_STEPS_TO_START
        params = replace(params or SamplingParams(1, temperature=0.0), max_tokens=max_tokens, ignore_eos=True)
        for number in range(num_seqs):
            add = Add(RequestId(number + 1), _prompt(info, number, context - 1), replace(params, seed=number))
            add = replace(add, adapter=adapters[number % len(adapters)])
            request = intake.accept(add, _CLIENT, ClientRole.FRONTEND)
            self.core.add_request(request)
            self._keys.append(request.key)
        for _ in range(_MAX_STEPS_TO_START):
            if len(self.step().token_ids) == num_seqs:
                return
        raise RuntimeError(f"{num_seqs} requests with {context} tokens each do not run together")

    def step(self) -> ClientOutputs:
        """One step; what its client must hear."""
        return self.core.step()[_CLIENT]

    def close(self) -> None:
        """End the requests, so that the runner can take another batch."""
        self.core.abort_requests(self._keys)
        self.core.step()


def encode_step(outputs: ClientOutputs) -> bytes:
    """The STEP message of these outputs, as the core's I/O thread makes it."""
    return codec.encode(Step(1, 1, outputs.request_ids, outputs.token_ids, tuple(outputs.finished)), 1)


class _PromptSkippingRunner:
    """A `ModelRunner` that leaves out all of a prompt but its last token."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner

    @property
    def info(self) -> ModelInfo:
        """Of the runner that computes."""
        return self._runner.info

    def execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Run a step without the tokens whose logits nobody needs."""
        if any(item.num_scheduled_tokens > 1 for item in step.scheduled):
            last_tokens = tuple(
                replace(
                    item,
                    num_computed_tokens=item.num_computed_tokens + item.num_scheduled_tokens - 1,
                    num_scheduled_tokens=1,
                )
                for item in step.scheduled
                if item.is_last_chunk
            )
            step = replace(step, scheduled=last_tokens)
        return self._runner.execute(step)


def _one_step_for_all_prompts(num_seqs: int, context: int) -> SchedulerConfig:
    num_tokens = max(16, num_seqs * context)
    limits: dict[str, float] = {
        "max_num_seqs": num_seqs,
        "max_num_batched_tokens": 2 * num_tokens,  # while others wait, one gets half of it at most
        "max_prefill_chunk": max(16, context),
        "max_queued_tokens": num_tokens,
        "max_queued_requests": num_seqs,
        "step_time_target": _NO_STEP_IS_TOO_LONG_S,
    }
    return SchedulerConfig.model_validate(limits)


def _prompt(info: ModelInfo, number: int, num_tokens: int) -> "array[int]":
    """Tokens that begin with another one for each request, so that none finds its prefix in the cache."""
    return array("i", [(number + position) % info.vocab_size for position in range(max(1, num_tokens))])
