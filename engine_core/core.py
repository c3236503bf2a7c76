"""The engine core proper: requests in, tokens out, one step at a time. It knows neither sockets nor threads.

`process` feeds it and sends what `step` returns; `Scheduler` decides, `ModelRunner` computes.
Law: every request that was added leaves in exactly one `Finished`, whatever happens in a step.
"""

import logging
from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from engine_core.admission import Admission
from engine_core.kv_cache.kv_cache_manager import KVCacheManager
from engine_core.outputs import ModelRunner, ModelRunnerOutput, RequestKey, SchedulerOutput
from engine_core.request import ClientSlot, Request
from engine_core.scheduler.scheduler import Scheduler
from engine_core.stop_check import StopCheck
from ipc.messages import Finished, FinishReason, Load, Started

log = logging.getLogger(__name__)


MAX_FAILED_STEPS_IN_A_ROW = 10


@dataclass(slots=True)
class ClientOutputs:
    """What a step gave for one client, in columns: the content of a STEP message."""

    request_ids: "array[int]" = field(default_factory=lambda: array("Q"))
    token_ids: "array[int]" = field(default_factory=lambda: array("i"))
    started: list[Started] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    embedding_request_ids: "array[int]" = field(default_factory=lambda: array("Q"))
    embeddings: "array[float]" = field(default_factory=lambda: array("f"))

    def extend(self, later: "ClientOutputs") -> None:
        """Append what came after."""
        self.request_ids.extend(later.request_ids)
        self.token_ids.extend(later.token_ids)
        self.started += later.started
        self.finished += later.finished
        self.embedding_request_ids.extend(later.embedding_request_ids)
        self.embeddings.extend(later.embeddings)


EngineCoreOutputs = dict[ClientSlot, ClientOutputs]


class EngineCore:
    """Scheduler, KV cache and model runner, stepped together."""

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        kv_cache: KVCacheManager,
        stop_check: StopCheck,
        admission: Admission,
    ) -> None:
        self._admission = admission
        self._runner = runner
        self._scheduler = scheduler
        self._kv_cache = kv_cache
        self._stop_check = stop_check
        self._requests: dict[RequestKey, Request] = {}
        self.num_failed_steps = 0
        self._num_failed_in_a_row = 0

    @property
    def has_requests(self) -> bool:
        """True while there is something to compute."""
        return self._scheduler.has_requests

    @property
    def is_broken(self) -> bool:
        """True when steps fail whatever is in them, so that only a new process can help."""
        return self._num_failed_in_a_row >= MAX_FAILED_STEPS_IN_A_ROW

    @property
    def load(self) -> Load:
        """Occupancy, for clients."""
        return self._scheduler.load

    @property
    def stats(self) -> dict[str, int | float | str]:
        """Counters and gauges, for control calls."""
        load = self.load
        return {
            "num_running": load.num_running,
            "num_waiting": load.num_waiting,
            "num_queued_tokens": load.num_queued_tokens,
            "num_free_blocks": load.num_free_blocks,
            "num_blocks": load.num_blocks,
            "num_preemptions": self._scheduler.num_preemptions,
            "num_failed_steps": self.num_failed_steps,
        }

    def add_request(self, request: Request) -> None:
        """Queue a request that `RequestIntake` has checked."""
        self._requests[request.key] = request
        self._scheduler.add(request)

    def abort_requests(self, keys: Iterable[RequestKey]) -> EngineCoreOutputs:
        """End these requests; unknown keys are ignored."""
        outputs: EngineCoreOutputs = defaultdict(ClientOutputs)
        for key in keys:
            request = self._requests.get(key)
            if request is not None:
                self._finish(request, request.finished(FinishReason.ABORT), outputs)
        return outputs

    def fail_all_requests(self, error_code: str, error_message: str) -> EngineCoreOutputs:
        """End everything that runs or waits with an error."""
        outputs: EngineCoreOutputs = defaultdict(ClientOutputs)
        self._fail(list(self._requests.values()), error_code, error_message, outputs)
        return outputs

    def step(self) -> EngineCoreOutputs:
        """Schedule, execute, update; returns what each client must hear."""
        plan = self._scheduler.schedule()
        for new in plan.new_requests:
            self._start(self._requests[new.key])
        outputs: EngineCoreOutputs = defaultdict(ClientOutputs)
        try:
            result = self._runner.execute(plan)
        except Exception:  # a step must not take other requests with it
            log.exception("step %d failed", plan.step)
            self.num_failed_steps += 1
            self._num_failed_in_a_row += 1
            self._kv_cache.discard_step()
            failed = [self._requests[item.key] for item in plan.scheduled]
            self._fail(failed, "step_failed", "The engine failed while it computed this request.", outputs)
            return outputs
        self._num_failed_in_a_row = 0
        self._kv_cache.end_step()
        self._update(plan, result, outputs)
        return outputs

    def reset_prefix_cache(self) -> int:
        """Empty the prefix cache; returns how many blocks it held."""
        return self._kv_cache.reset_prefix_cache()

    def check_idle(self) -> None:
        """Raise `AssertionError` if anything is left although no request is."""
        assert not self._requests, f"{len(self._requests)} requests that nobody schedules"
        self._kv_cache.check_idle()

    def _update(self, plan: SchedulerOutput, result: ModelRunnerOutput, outputs: EngineCoreOutputs) -> None:
        """Give each scheduled request what the step computed for it."""
        for item in plan.scheduled:
            request = self._requests[item.key]
            if item.key in result.failures:
                code = result.failures[item.key]
                self._fail([request], code, f"This request failed in the model ({code}).", outputs)
            elif item.key in result.sampled_token_ids:
                self._take_token(request, result.sampled_token_ids[item.key], outputs)
            elif item.key in result.embeddings:
                client = outputs[request.client_slot]
                client.embedding_request_ids.append(request.request_id)
                client.embeddings.extend(result.embeddings[item.key])
                self._finish(request, request.finished(FinishReason.STOP), outputs)
            else:
                assert not item.is_last_chunk, f"the runner gave nothing for request {item.key}"

    def _take_token(self, request: Request, token_id: int, outputs: EngineCoreOutputs) -> None:
        client = outputs[request.client_slot]
        if request.first_token_at is None:
            client.started.append(Started(request.request_id, request.num_cached_tokens))
        request.append_output_token(token_id)
        client.request_ids.append(request.request_id)
        client.token_ids.append(token_id)
        finished = self._stop_check.check(request)
        if finished is not None:
            self._finish(request, finished, outputs)

    def _fail(self, requests: list[Request], error_code: str, error_message: str, outputs: EngineCoreOutputs) -> None:
        for request in requests:
            finished = request.finished(FinishReason.ERROR, error_code=error_code, error_message=error_message)
            self._finish(request, finished, outputs, is_trusted=False)

    def _finish(
        self, request: Request, finished: Finished, outputs: EngineCoreOutputs, *, is_trusted: bool = True
    ) -> None:
        del self._requests[request.key]
        if request.num_queued_tokens:
            self._admission.withdraw(request.num_queued_tokens)
        else:
            self._admission.end()
        self._scheduler.finish(request, is_trusted=is_trusted)
        outputs[request.client_slot].finished.append(finished)

    def _start(self, request: Request) -> None:
        if request.num_queued_tokens:  # else it comes back after a preemption
            self._admission.start(request.num_queued_tokens)
            request.num_queued_tokens = 0
