"""The engine core proper: requests in, tokens out, one step at a time. It knows neither sockets nor threads.

`process` feeds it and sends what `step` returns; `Scheduler` decides, `ModelRunner` computes.
Law: every request that was added leaves in exactly one `Finished`, whatever happens in a step, or is handed back before
anything of it ran.
"""

import logging
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from engine_core.admission import Admission
from engine_core.cancelled_names import CancelledNames
from engine_core.deadlines import Deadlines
from engine_core.kv_cache.kv_cache_manager import KVCacheManager
from engine_core.metrics.engine_metrics import EngineMetrics
from engine_core.outputs import (
    Logprobs,
    ModelRunner,
    ModelRunnerOutput,
    RequestKey,
    ScheduledRequest,
)
from engine_core.quarantine import Quarantine
from engine_core.request import ClientSlot, Request, RequestStatus
from engine_core.scheduler.scheduler import Scheduler
from engine_core.step_retry import OUT_OF_MEMORY, STEP_FAILED, StepOutcome, execute_step
from engine_core.stop_check import StopCheck
from engine_core.structured_output.grammar import CompiledGrammar, GrammarError
from engine_core.structured_output.grammar_compiler import GrammarCompiler
from ipc.messages import CANCELLED, Finished, FinishReason, Load, Started

log = logging.getLogger(__name__)


MAX_FAILED_STEPS_IN_A_ROW = 10
_MESSAGES_OF_FAILED_STEPS = {
    STEP_FAILED: "The engine failed while it computed this request.",
    OUT_OF_MEMORY: "The engine ran out of memory while it computed this request.",
}
_CODES_OF_WRONG_CONTENT = frozenset({*_MESSAGES_OF_FAILED_STEPS, "nan_logits", "nan_embedding"})
"""Failures after which what the request left in the KV cache must not be found again."""


@dataclass(slots=True)
class ClientOutputs:
    """What a step gave for one client, in columns: the content of a STEP message."""

    request_ids: "array[int]" = field(default_factory=lambda: array("Q"))
    token_ids: "array[int]" = field(default_factory=lambda: array("i"))
    started: list[Started] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    embedding_request_ids: "array[int]" = field(default_factory=lambda: array("Q"))
    embeddings: "array[float]" = field(default_factory=lambda: array("f"))
    logprob_request_ids: "array[int]" = field(default_factory=lambda: array("Q"))
    logprob_counts: "array[int]" = field(default_factory=lambda: array("i"))
    logprob_ranks: "array[int]" = field(default_factory=lambda: array("i"))
    logprob_token_ids: "array[int]" = field(default_factory=lambda: array("i"))
    logprobs: "array[float]" = field(default_factory=lambda: array("f"))

    def extend(self, later: "ClientOutputs") -> None:
        """Append what came after."""
        self.request_ids.extend(later.request_ids)
        self.token_ids.extend(later.token_ids)
        self.started += later.started
        self.finished += later.finished
        self.embedding_request_ids.extend(later.embedding_request_ids)
        self.embeddings.extend(later.embeddings)
        self.logprob_request_ids.extend(later.logprob_request_ids)
        self.logprob_counts.extend(later.logprob_counts)
        self.logprob_ranks.extend(later.logprob_ranks)
        self.logprob_token_ids.extend(later.logprob_token_ids)
        self.logprobs.extend(later.logprobs)

    def add_logprobs(self, request: Request, logprobs: Logprobs) -> None:
        """Append the rows of one or more positions of a request."""
        num_positions = len(logprobs.ranks)
        self.logprob_request_ids.extend([request.request_id] * num_positions)
        self.logprob_counts.extend([logprobs.num_entries] * num_positions)
        self.logprob_ranks.extend(logprobs.ranks)
        self.logprob_token_ids.extend(logprobs.token_ids)
        self.logprobs.extend(logprobs.values)


EngineCoreOutputs = dict[ClientSlot, ClientOutputs]
OnFinished = Callable[[Request, Finished], None]


def ignore(_request: Request, _finished: Finished) -> None:
    """For an `EngineCore` of whose ended requests nobody wants to know."""


class EngineCore:
    """Scheduler, KV cache and model runner, stepped together."""

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        kv_cache: KVCacheManager,
        stop_check: StopCheck,
        admission: Admission,
        grammar_compiler: GrammarCompiler,
        quarantine: Quarantine,
        metrics: EngineMetrics,
        on_finished: OnFinished = ignore,
    ) -> None:
        """`grammar_compiler` tells its owner when it is done, who then calls `on_grammar` on this thread.

        `on_finished` is told of each request that leaves in a `Finished`.
        """
        self._on_finished = on_finished
        self._admission = admission
        self._grammar_compiler = grammar_compiler
        self._quarantine = quarantine
        self._metrics = metrics
        self._deadlines = Deadlines()
        self._runner = runner
        self._scheduler = scheduler
        self._kv_cache = kv_cache
        self._stop_check = stop_check
        self._requests: dict[RequestKey, Request] = {}
        self._cancelled_names = CancelledNames()
        self.num_failed_steps = 0
        self._num_sampled_tokens = 0
        self._num_failed_in_a_row = 0

    @property
    def has_requests(self) -> bool:
        """True while there is something to compute; requests whose grammar is being compiled are not."""
        return self._scheduler.has_requests

    @property
    def is_empty(self) -> bool:
        """True while no request is here in any state."""
        return not self._requests

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
            "num_fairness_preemptions": self._scheduler.num_fairness_preemptions,
            "num_failed_steps": self.num_failed_steps,
            "num_sampled_tokens": self._num_sampled_tokens,
            "num_draft_tokens": self._scheduler.num_draft_tokens,
            "num_accepted_tokens": self._scheduler.num_accepted_tokens,
        }

    def add_request(self, request: Request) -> EngineCoreOutputs:
        """Take in a request that `RequestIntake` has checked; what comes back ends it where nothing is left to do."""
        outputs: EngineCoreOutputs = defaultdict(ClientOutputs)
        self._requests[request.key] = request
        self._deadlines.add(request)
        self._metrics.on_added(request)
        finished = self._stop_check.check(request) if request.num_output_tokens else None
        if self._cancelled_names.covers(request):
            self._finish(request, request.finished(FinishReason.ABORT, error_code=CANCELLED), outputs)
        elif finished is not None:  # resumed, and the tokens that its client has already were all
            self._finish(request, finished, outputs)
        elif request.sampling_params.structured_output:
            self._grammar_compiler.compile(request.key, request.sampling_params.structured_output)
        else:
            self._queue(request)
        return outputs

    def on_grammar(
        self, key: RequestKey, grammar: CompiledGrammar | None, error_code: str, error_message: str
    ) -> EngineCoreOutputs:
        """Queue a request whose grammar is compiled; without one, the request fails with the code and the message."""
        outputs: EngineCoreOutputs = defaultdict(ClientOutputs)
        request = self._requests.get(key)
        if request is None:
            return outputs  # aborted meanwhile
        if grammar is None:
            self._fail([request], error_code, error_message, outputs)
        else:
            self._queue_with_grammar(request, grammar, outputs)
        return outputs

    def name_of(self, key: RequestKey) -> str:
        """The name by which its user knows a request; empty where it has none, or has left."""
        request = self._requests.get(key)
        return request.external_ids[0] if request is not None and request.external_ids else ""

    def keys_of_flow(self, flow: str | None) -> list[RequestKey]:
        """The requests of a flow in any state; all for None."""
        return [key for key, request in self._requests.items() if flow is None or request.flow == flow]

    def _queue_with_grammar(self, request: Request, grammar: CompiledGrammar, outputs: EngineCoreOutputs) -> None:
        if request.num_output_tokens:  # resumed: what its client has may be the whole answer
            try:
                matcher = grammar.new_matcher(request.token_ids[request.num_prompt_tokens :])
            except GrammarError as error:
                self._fail([request], "grammar_error", str(error), outputs)
                return
            if matcher.is_complete:
                self._finish(request, self._finished_by_grammar(request), outputs)
                return
        request.grammar = grammar
        self._queue(request)

    def _queue(self, request: Request) -> None:
        if self._quarantine.may_run(request):
            self._scheduler.add(request)

    def _queue_released(self) -> None:
        for request in self._quarantine.released():
            self._scheduler.add(request)

    def cancel_requests(self, external_id: str, flow: str | None) -> tuple[int, EngineCoreOutputs]:
        """End the requests with this name in any state, of one flow or for None of any; says how many there were.

        Those that came to their client before now, but come here later, end then.
        """
        self._cancelled_names.add(external_id, flow, time.time_ns() // 1000)
        keys = [key for key in self.keys_of_flow(flow) if external_id in self._requests[key].external_ids]
        return len(keys), self.abort_requests(keys, CANCELLED)

    def abort_requests(
        self, keys: Iterable[RequestKey], error_code: str = "", *, is_complete: bool = False, why: str = ""
    ) -> EngineCoreOutputs:
        """End these requests; unknown keys are ignored. The code tells their clients why, where they did not ask.

        `is_complete`: their clients have the whole answer, which is an end like one by a stop token. `why` is what
        metrics count it under where there is no code.
        """
        outputs: EngineCoreOutputs = defaultdict(ClientOutputs)
        reason = FinishReason.STOP if is_complete else FinishReason.ABORT
        for key in keys:
            request = self._requests.get(key)
            if request is not None:
                self._finish(request, request.finished(reason, error_code=error_code), outputs, abort_reason=why)
        return outputs

    def withdraw_unstarted(self) -> list[Request]:
        """Let go of all requests of which nothing has run; whoever asks tells their clients so."""
        unstarted = [request for request in self._requests.values() if request.num_queued_tokens]
        for request in unstarted:
            self._metrics.on_withdrawn(request)
            self._forget(request)
        return unstarted

    def fail_overdue(self) -> EngineCoreOutputs:
        """End the requests whose time is over; `step` does it too."""
        outputs: EngineCoreOutputs = defaultdict(ClientOutputs)
        self._fail_overdue(outputs)
        return outputs

    def fail_all_requests(self, error_code: str, error_message: str) -> EngineCoreOutputs:
        """End everything that runs or waits with an error."""
        outputs: EngineCoreOutputs = defaultdict(ClientOutputs)
        self._fail(list(self._requests.values()), error_code, error_message, outputs)
        return outputs

    def step(self) -> EngineCoreOutputs:
        """Schedule, execute, update; returns what each client must hear."""
        outputs: EngineCoreOutputs = defaultdict(ClientOutputs)
        self._fail_overdue(outputs)
        plan = self._scheduler.schedule(self._quarantine.alone)
        for new in plan.new_requests:
            self._start(self._requests[new.key])
        self._quarantine.begin_step(plan, self._requests)
        started_at = time.monotonic()
        outcome = execute_step(self._runner, plan, self._requests, self._kv_cache)
        now = time.monotonic()
        if outcome.has_failed:
            self._after_failure(outcome, outputs)
        else:
            self._num_failed_in_a_row = 0
            self._scheduler.observe_step(now - started_at)
        token_times = self._update(outcome.executed, outcome.result, now, outputs)
        num_tokens = sum([item.num_scheduled_tokens for item in outcome.executed])
        num_generated = sum([len(client.token_ids) for client in outputs.values()])
        self._metrics.on_step(num_tokens, now - started_at, num_generated, token_times, now)
        self._queue_released()
        return outputs

    def reset_prefix_cache(self) -> int:
        """Empty the prefix cache; returns how many blocks it held."""
        return self._kv_cache.reset_prefix_cache()

    def check_idle(self) -> None:
        """Raise `AssertionError` if anything is left although no request is."""
        assert not self._requests, f"{len(self._requests)} requests that nobody schedules"
        self._kv_cache.check_idle()

    def _after_failure(self, outcome: StepOutcome, outputs: EngineCoreOutputs) -> None:
        """End who is at fault, and hide from the prefix cache what was not written."""
        self.num_failed_steps += 1
        self._metrics.on_failed_step()
        self._num_failed_in_a_row = 0 if outcome.executed else self._num_failed_in_a_row + 1
        for key, code in outcome.at_fault.items():
            self._fail([self._requests[key]], code, _MESSAGES_OF_FAILED_STEPS[code], outputs)
        for key in outcome.to_restart:
            self._scheduler.restart(self._requests[key])

    def _update(
        self,
        executed: Sequence[ScheduledRequest],
        result: ModelRunnerOutput,
        now: float,
        outputs: EngineCoreOutputs,
    ) -> list[float | None]:
        """Give each request that was executed what the step, which ended `now`, computed for it.

        Returns when those that got tokens had got one before, if they had.
        """
        token_times: list[float | None] = []
        self._num_sampled_tokens += len(result.sampled_token_ids) + sum(map(len, result.further_token_ids.values()))
        for item in executed:
            request = self._requests[item.key]
            if item.key in result.failures:
                code = result.failures[item.key]
                self._fail([request], code, f"This request failed in the model ({code}).", outputs)
            elif item.key in result.sampled_token_ids:
                token_times.append(request.times.last_token_at)
                self._take_tokens(request, item, result, now, outputs)
            elif item.key in result.embeddings:
                client = outputs[request.client_slot]
                client.embedding_request_ids.append(request.request_id)
                client.embeddings.extend(result.embeddings[item.key])
                self._metrics.on_embedding(request)
                self._finish(request, request.finished(FinishReason.STOP), outputs)
            else:
                assert not item.is_last_chunk, f"the runner gave nothing for request {item.key}"
        return token_times

    def _take_tokens(
        self,
        request: Request,
        item: ScheduledRequest,
        result: ModelRunnerOutput,
        now: float,
        outputs: EngineCoreOutputs,
    ) -> None:
        key, client = request.key, outputs[request.client_slot]
        if request.times.first_token_at is None:
            prompt_logprobs = result.prompt_logprobs.get(key)
            num_rows = 0 if prompt_logprobs is None else len(prompt_logprobs.ranks)
            client.started.append(request.started(now, num_rows))
            self._metrics.on_first_token(request, now)
            if prompt_logprobs is not None:
                client.add_logprobs(request, prompt_logprobs)
        finished = self._take_token(request, result.sampled_token_ids[key], now, client)
        if key in result.logprobs:
            client.add_logprobs(request, result.logprobs[key])
        if finished is None and key in result.completed_grammars:
            finished = self._finished_by_grammar(request)
        if item.draft_token_ids:
            num_accepted = 0
            for token_id in result.further_token_ids.get(key, ()):
                if finished is not None:
                    break  # what follows the end was never said
                finished = self._take_token(request, token_id, now, client)
                num_accepted += 1
            self._scheduler.accept_draft(request, len(item.draft_token_ids), num_accepted)
        if finished is not None:
            self._finish(request, finished, outputs)

    def _take_token(self, request: Request, token_id: int, now: float, client: ClientOutputs) -> Finished | None:
        """Give a request its next token; returns its end, if the token brings it."""
        request.append_output_token(token_id, now)
        client.request_ids.append(request.request_id)
        client.token_ids.append(token_id)
        return self._stop_check.check(request)

    def _finished_by_grammar(self, request: Request) -> Finished:
        last_token_id = request.token_ids[-1]
        stop_token_id = last_token_id if self._stop_check.is_eos(last_token_id) else -1
        return request.finished(FinishReason.STOP, stop_token_id=stop_token_id)

    def _fail_overdue(self, outputs: EngineCoreOutputs) -> None:
        now = time.monotonic()
        for key in self._deadlines.pop_due(now):
            request = self._requests.get(key)
            if request is None:
                continue
            if request.deadline <= now:
                self._fail([request], "timeout", "The request did not end in the time that it had.", outputs)
            elif request.times.first_scheduled_at is None:
                self._fail([request], "queue_timeout", "The request waited too long.", outputs)

    def _fail(self, requests: list[Request], error_code: str, error_message: str, outputs: EngineCoreOutputs) -> None:
        is_trusted = error_code not in _CODES_OF_WRONG_CONTENT
        level = logging.INFO if is_trusted else logging.WARNING
        for request in requests:
            log.log(level, "request %d ends: %s", request.key, error_code, extra={"request_key": request.key})
            finished = request.finished(FinishReason.ERROR, error_code=error_code, error_message=error_message)
            self._finish(request, finished, outputs, is_trusted=is_trusted)

    def _finish(
        self,
        request: Request,
        finished: Finished,
        outputs: EngineCoreOutputs,
        *,
        is_trusted: bool = True,
        abort_reason: str = "",
    ) -> None:
        self._metrics.on_finished(request, finished, time.monotonic(), abort_reason)
        is_innocent = finished.reason in (FinishReason.STOP, FinishReason.LENGTH)
        self._forget(request, is_trusted=is_trusted, is_innocent=is_innocent)
        outputs[request.client_slot].finished.append(finished)
        self._on_finished(request, finished)

    def _forget(self, request: Request, *, is_trusted: bool = True, is_innocent: bool = False) -> None:
        del self._requests[request.key]
        if request.num_queued_tokens:
            self._admission.withdraw(request.num_queued_tokens)
        else:
            self._admission.end()
        self._deadlines.remove(request)
        if request.status is RequestStatus.NEW:
            self._grammar_compiler.cancel(request.key)
        self._quarantine.on_finished(request, is_innocent=is_innocent)
        self._scheduler.finish(request, is_trusted=is_trusted)
        self._queue_released()

    def _start(self, request: Request) -> None:
        if request.num_queued_tokens:  # else it comes back after a preemption
            self._admission.start(request.num_queued_tokens)
            request.num_queued_tokens = 0
            self._metrics.on_scheduled(request)
