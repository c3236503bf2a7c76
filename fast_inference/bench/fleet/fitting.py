"""Measures the step-time model of a device: a real engine core computes a mixed load, four coefficients are fitted.

The load is one of everything: bursts of 1 to `max_num_seqs` prompts of many lengths, computed in chunks beside decodes
as the scheduler has it. Each whole `EngineCore.step` is a row: its time, decodes, their contexts, prompt tokens.
Invariant: rows count by relative errors, so that short steps count as much as long ones; no coefficient is
negative. Called by `scripts/simulate_fleet.py` and `validation.py`.
"""

import random
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine_core.model.fake_runner import FakeModelRunner
from engine_core.outputs import ModelInfo, ModelRunner, ModelRunnerOutput, SchedulerOutput
from engine_core.request import ClientSlot
from fast_inference.bench.decode_batch import BLOCK_SIZE, build_core, load_runner
from fast_inference.bench.fleet.step_time import Profile, StepTime
from fast_inference.model_store import resolve_model
from ipc.config import FAKE_MODEL, CacheConfig, FakeModelConfig, ModelConfig, SchedulerConfig
from ipc.messages import Add, ClientRole, RequestId
from ipc.sampling_params import SamplingParams

_CLIENT = ClientSlot(1)
_MAX_PROMPT_TOKENS = 1500
_MAX_OUTPUT_TOKENS = 96
_BURSTS = (1, 1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step."""

    seconds: float
    num_decodes: int
    num_context_tokens: int
    num_prefill_tokens: int


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """What computes: in this process for a fit, in a server for a validation."""

    model: str = FAKE_MODEL
    """As `serve` takes it."""
    threads: int = 1
    fake_step_ms: float = 20.0
    fake_token_us: float = 200.0
    max_num_seqs: int = 64
    num_blocks: int = 2048
    """Of the KV cache of a core that is simulated or served; a fit has what it needs."""

    @property
    def flags(self) -> list[str]:
        """Of `serve`."""
        flags = ["--model", self.model, "--threads", str(self.threads)]
        flags += ["--max-num-seqs", str(self.max_num_seqs), "--num-blocks", str(self.num_blocks)]
        if self.model == FAKE_MODEL:
            flags += ["--fake-step-ms", str(self.fake_step_ms), "--fake-token-us", str(self.fake_token_us)]
        return flags


def measure_profile(
    model: MeasuredModel, request_delay_s: float, command: str, tell: Callable[[str], None], seed: int = 0
) -> Profile:
    """The profile of a model on this machine; `tell` hears what loading is at.

    Raises:
        ConfigError: the model cannot be run.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = _measure(_load(model, Path(folder), tell), model.max_num_seqs, seed)
    step_time, error = fit(rows)
    step_time = replace(step_time, request_delay_s=request_delay_s)
    device = f"{model.threads} thread(s) of a CPU"
    if model.model == FAKE_MODEL:
        device = f"{model.fake_step_ms:g} ms a step, {model.fake_token_us:g} us a token"
    description = (
        f"{model.model}, {device}: {step_time.fixed_s * 1e3:.2f} ms + {step_time.per_request_s * 1e3:.3f} ms * decodes "
        f"+ {step_time.per_context_token_s * 1e6:.3f} us * contexts + {step_time.per_prefill_token_s * 1e6:.1f} us * "
        f"prompt tokens; {len(rows)} steps, median error {error:.1%}"
    )
    return Profile(model.model, description, command, step_time, model.num_blocks, max_model_len=4096)


def fit(rows: list[StepRow]) -> tuple[StepTime, float]:
    """The coefficients, and the median of the relative errors."""
    terms = np.array([(1.0, row.num_decodes, row.num_context_tokens, row.num_prefill_tokens) for row in rows])
    seconds = np.array([row.seconds for row in rows])
    relative = terms / seconds[:, None]
    factors = np.zeros(terms.shape[1])
    used = list(range(terms.shape[1]))
    while used:  # a coefficient that would be negative is none
        solution, *_ = np.linalg.lstsq(relative[:, used], np.ones(len(rows)), rcond=None)
        if (solution >= 0).all():
            factors[used] = solution
            break
        del used[int(solution.argmin())]
    error = statistics.median(np.abs(terms @ factors / seconds - 1.0).tolist())
    return StepTime(*factors.tolist()), error


def _load(measured: MeasuredModel, folder: Path, tell: Callable[[str], None]) -> ModelRunner:
    """With room for the largest burst."""
    num_blocks = measured.max_num_seqs * ((_MAX_PROMPT_TOKENS + _MAX_OUTPUT_TOKENS) // BLOCK_SIZE + 2) * 11 // 10
    if measured.model == FAKE_MODEL:
        fake = FakeModelConfig.model_validate(
            {"fake_step_ms": measured.fake_step_ms, "fake_token_us": measured.fake_token_us}
        )
        cache = CacheConfig.model_validate({"num_blocks": num_blocks})
        return FakeModelRunner(ModelConfig.model_validate({"model": FAKE_MODEL}), cache, fake, folder)
    path = resolve_model(measured.model, lambda stage, fraction: tell(stage))
    model = ModelConfig.model_validate({"model": path, "threads": measured.threads})
    return load_runner(model, measured.max_num_seqs, num_blocks, tell)


class _ListeningRunner:
    """A runner that keeps what the last step was."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.step: SchedulerOutput | None = None

    @property
    def info(self) -> ModelInfo:
        return self._runner.info

    def execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        self.step = step
        return self._runner.execute(step)


def _measure(runner: ModelRunner, max_num_seqs: int, seed: int) -> list[StepRow]:
    listening = _ListeningRunner(runner)
    core, _, intake = build_core(listening, SchedulerConfig.model_validate({"max_num_seqs": max_num_seqs}))
    source = random.Random(seed)
    rows: list[StepRow] = []
    number = 0
    for size in (size for size in _BURSTS if size <= max_num_seqs):
        for _ in range(size):
            number += 1
            num_tokens = min(_MAX_PROMPT_TOKENS, max(8, round(source.lognormvariate(5.3, 0.9))))
            prompt = array("i", [source.randrange(100, 250) for _ in range(num_tokens)])
            params = SamplingParams(source.randrange(24, _MAX_OUTPUT_TOKENS), temperature=0.0, ignore_eos=True)
            core.add_request(intake.accept(Add(RequestId(number), prompt, params), _CLIENT, ClientRole.FRONTEND))
        while not core.is_empty:
            began_at = time.perf_counter()
            core.step()
            rows.append(_row(listening.step, time.perf_counter() - began_at))
    return rows


def _row(step: SchedulerOutput | None, seconds: float) -> StepRow:
    assert step is not None
    decodes = [item for item in step.scheduled if item.num_scheduled_tokens == 1]
    return StepRow(
        seconds,
        len(decodes),
        sum(item.num_computed_tokens + 1 for item in decodes),
        sum(item.num_scheduled_tokens for item in step.scheduled if item.num_scheduled_tokens > 1),
    )
