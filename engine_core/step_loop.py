"""The step loop: events in, steps while there is work, and the end of a core that drains or retires.

    READY ─▶ DRAINING or RETIRING ─▶ `run` returns

`Drain` ends the loop, and so does the control call RETIRE, once another core has taken its place: then its clients take
what has not begun there. After the call DRAIN it stays, and RESUME makes it READY again. It blocks while there is
nothing to do. Made and run by `core_server.py`. Next: `core.EngineCore.step`.
"""

import contextlib
import logging
import time
from queue import Empty, SimpleQueue

from engine_core.core import EngineCore, EngineCoreOutputs
from engine_core.events import AbortRequests, AddRequest, ControlCall, DrainBegun, Event, GrammarCompiled
from engine_core.io_thread import IoThread
from engine_core.step_clock import StepClock
from ipc.messages import CORE_RETIRED, Call, CallMethod, CoreState, Reply

log = logging.getLogger(__name__)

_RETIRING_S = 2.0
"""A core that retires stays for so long, even if it is idle, where clients do not leave it before."""
_POLL_INTERVAL_S = 0.05
"""How often deadlines are looked at while grammars are compiled and nothing runs."""
_IDLE_INTERVAL_S = 0.5
"""Longest wait of an idle core: a signal that comes just before the wait is seen when that ends, as CPython has it."""


class StepLoop:
    """The loop of one core, on the thread that calls `run`."""

    def __init__(
        self, core: EngineCore, io: IoThread, inbox: "SimpleQueue[Event]", clock: StepClock, drain_timeout_s: float
    ) -> None:
        self._core = core
        self._io = io
        self._inbox = inbox
        self._clock = clock
        self._drain_timeout_s = drain_timeout_s
        self._drain_deadline: float | None = None
        self._has_drain_begun = False
        self._is_retiring = False
        self._farewell_deadline = 0.0

    def run(self) -> None:
        """Step while there is work, block while there is none, until drained.

        Raises:
            RuntimeError: every step fails.
        """
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
            wait_s = 0.0
        else:
            wait_s = _IDLE_INTERVAL_S if self._core.is_empty and self._drain_deadline is None else _POLL_INTERVAL_S
        with contextlib.suppress(Empty):
            self._handle(self._inbox.get(timeout=wait_s) if wait_s != 0.0 else self._inbox.get_nowait())
            while True:
                self._handle(self._inbox.get_nowait())

    def _handle(self, event: Event) -> None:
        if isinstance(event, AddRequest):
            self._send(self._core.add_request(event.request))
        elif isinstance(event, AbortRequests):
            self._send_last(self._core.abort_requests(event.keys, is_complete=event.is_complete, why=event.reason))
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
                self._send_last(self._core.abort_requests(keys, why="administrator"))
                return Reply(call.call_id, {"num_aborted": len(keys)})
            case CallMethod.CANCEL:
                external_id = _text_argument(call, "id")
                assert external_id is not None, "control_calls lets nothing else pass"
                num_cancelled, outputs = self._core.cancel_requests(external_id, _text_argument(call, "flow"))
                self._send_last(outputs)
                return Reply(call.call_id, {"num_cancelled": num_cancelled})
            case CallMethod.PING | CallMethod.METRICS | CallMethod.TOKENIZER:  # answered by the I/O thread
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
