"""The discrete-event simulation: sessions, frontends, cores, cores that die, a number of cores that follows the load.

    session ─▶ SimFrontend.choose ─(request_delay_s)─▶ SimCore.add ─ steps ─▶ on_finished ─▶ the session's next turn

Events are on one heap, in order of time, then of making. Invariants: the same settings and seed give the same result;
each request ends once; a policy is asked for each request that is new or has lost its core, and never else.
Read next: `core_model.py`, `frontend_model.py`, `workloads.py`, `results.py`.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fast_inference.bench.fleet.core_model import CoreSettings, SimCore
from fast_inference.bench.fleet.frontend_model import SimFrontend
from fast_inference.bench.fleet.results import Results
from fast_inference.bench.fleet.sim_request import SimRequest
from fast_inference.bench.fleet.tokens import LARGEST_ALPHABET, Alphabet
from fast_inference.bench.fleet.workloads import Session, Turn
from fast_inference.ray_executor.scaling import CoreLoad, ScalingPolicy
from ipc.messages import Welcome
from ipc.placement import Placement

BEAT_INTERVAL_S = 0.5
"""How often a core publishes its load to those that have nothing there."""
SCALING_INTERVAL_S = 0.5
"""How often the number of cores is looked at."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Bounds of the number of cores, as `serve --executor ray --cores MIN:MAX`."""

    min_cores: int
    max_cores: int
    up_queued_tokens: int = 4096
    down_idle_s: float = 60.0


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """What is simulated beside the workload and the policy."""

    core: CoreSettings
    num_cores: int
    num_frontends: int
    duration_s: float
    """Of the part that counts; sessions arrive until its end."""
    warm_up_s: float = 0.0
    failures_s: tuple[float, ...] = ()
    """When a core dies, from the beginning of the part that counts on: the first that lives, then the next one."""
    detect_s: float = 0.5
    """Until frontends know that it is dead."""
    start_s: float = 30.0
    """Until it, or a new core, is ready."""
    scaling: Scaling | None = None
    max_model_len: int = 4096
    alphabet: Alphabet = LARGEST_ALPHABET
    """Of the tokens that policies see."""
    seed: int = 0


class Simulation:
    """One run; `run` may be called once."""

    def __init__(
        self,
        settings: FleetSettings,
        workload: Iterator[tuple[float, Session]],
        make_policy: Callable[[int, int], Placement],
        *,
        has_closed_form: bool = True,
        may_go_on: bool = False,
    ) -> None:
        """`workload`: when each session begins. `may_go_on`: until every request has ended, for tests and replays."""
        self.results = Results()
        self.finished: list[SimRequest] = []
        """All of them, where it goes on until the end."""
        self._settings = settings
        self._has_closed_form = has_closed_form
        self._keeps_all = may_go_on
        self._ends_at_s = settings.warm_up_s + settings.duration_s
        self._sessions = workload
        self._live_sessions: dict[int, tuple[Session, Turn]] = {}
        self._events: list[tuple[float, int, Callable[[Any, float], None], Any]] = []
        self._event_numbers = itertools.count()
        self._request_numbers = itertools.count()
        self._core_numbers = itertools.count()
        self._cores: dict[str, SimCore] = {}
        """Those that live, whether or not frontends know it."""
        self._ready: dict[str, None] = {}
        """Names of those that frontends send to."""
        self._retiring: set[str] = set()
        self._limbo: dict[str, list[SimRequest]] = {}
        """By the name of a dead core, before frontends know: its requests, and those that came meanwhile."""
        self._core_since_s: dict[str, float] = {}
        self._live: dict[str, Counter[int]] = {}
        """Requests of each core by frontend."""
        self._homeless: list[SimRequest] = []
        """Requests for which there is no core."""
        self._alive: dict[int, SimRequest] = {}
        """Requests that have not ended, by number."""
        self._wakes_at_s: dict[str, float] = {}
        """For when the wake of each core is on the heap."""
        self._num_wanted = settings.num_cores
        scaling = settings.scaling
        self._policy_of_size = (
            ScalingPolicy(scaling.min_cores, scaling.max_cores, scaling.up_queued_tokens, scaling.down_idle_s)
            if scaling
            else None
        )
        core = settings.core
        welcome = welcome_of(core, settings.max_model_len)
        self._random = random.Random(settings.seed)
        self._frontends = [
            SimFrontend(make_policy(self._random.getrandbits(32), core.block_size), welcome, settings.alphabet)
            for _ in range(settings.num_frontends)
        ]
        self._now = 0.0

    def run(self) -> Results:
        """Simulate to the end."""
        settings = self._settings
        for _ in range(settings.num_cores):
            self._add_core(0.0)
        self._tell_cores(frozenset(self._ready))
        for after_s in settings.failures_s:
            self._at(settings.warm_up_s + after_s, self._on_failure, None)
        self._at(settings.warm_up_s, self._on_warmed_up, None)
        if self._policy_of_size is not None:
            self._at(0.0, self._on_scaling, None)
        self._schedule_session()
        events = self._events
        while events:
            now, _, action, argument = heapq.heappop(events)
            if now > self._ends_at_s and not (self._keeps_all and self._alive):
                break
            self._now = now
            action(argument, now)
        for name, core in self._cores.items():
            self._count_core(name, core, min(self._now, self._ends_at_s))
        for request in self._alive.values():
            if request.arrived_s >= settings.warm_up_s:
                self.results.add_unfinished(request, self._now)
        return self.results

    # --- what cores tell (CoreListener) ---

    def on_tokens(self, num_gaps: int, gap_s: float) -> None:
        """So many tokens came so long after the one before."""
        if self._now >= self._settings.warm_up_s:
            self.results.add_gaps(num_gaps, gap_s)

    def on_finished(self, request: SimRequest, now: float) -> None:
        """A request has ended."""
        self._leave(request)
        del self._alive[request.number]
        if request.arrived_s >= self._settings.warm_up_s:
            self.results.add_finished(request)
        if self._keeps_all:
            self.finished.append(request)
        live = self._live_sessions.pop(request.session, None)
        if live is not None:
            session, turn = live
            self._at(now + turn.think_s, self._on_turn, session)

    def _on_warmed_up(self, _: None, now: float) -> None:
        for core in self._cores.values():
            core.forget_busy(now)

    # --- arrivals ---

    def _schedule_session(self) -> None:
        begins_s, session = next(self._sessions, (self._ends_at_s, None))
        if session is not None and begins_s < self._ends_at_s:
            self._at(begins_s, self._on_session, session)

    def _on_session(self, session: Session, now: float) -> None:
        self._on_turn(session, now)
        self._schedule_session()

    def _on_turn(self, session: Session, now: float) -> None:
        turn = session.next_turn()
        if turn is None or now >= self._ends_at_s:
            return
        request = SimRequest(
            next(self._request_numbers), now, turn.prompt, turn.num_output_tokens, turn.owner, turn.session
        )
        request.frontend = self._random.randrange(len(self._frontends))
        self._live_sessions[turn.session] = (session, turn)
        self._alive[request.number] = request
        self._place(request, now)

    def _place(self, request: SimRequest, now: float) -> None:
        frontend = self._frontends[request.frontend]
        if not frontend.has_cores:
            self._homeless.append(request)
            return
        request.core = frontend.choose(request)
        self._live[request.core][request.frontend] += 1
        self._at(now + self._settings.core.step_time.request_delay_s, self._on_arrival, request)

    def _on_arrival(self, request: SimRequest, now: float) -> None:
        """A request has come to its core."""
        name = request.core
        self._frontends[request.frontend].on_taken_in(request)
        core = self._cores.get(name)
        if core is None:
            if name in self._limbo:
                self._limbo[name].append(request)
            else:
                self._move([request], now)
            return
        if name in self._retiring:
            self._leave(request)
            self._place(request, now)
            return
        core.add(request, now)
        self._schedule_wake(core)
        if core.num_running == self._settings.core.max_num_seqs:  # the steps go on without it, and tell of it
            self._at(min(core.wakes_at_s or now, now + core.step_s), self._on_publish, core)

    def _leave(self, request: SimRequest) -> None:
        live = self._live[request.core]
        live[request.frontend] -= 1
        if not live[request.frontend]:
            del live[request.frontend]
        self._frontends[request.frontend].on_left(request)

    # --- cores at work ---

    def _schedule_wake(self, core: SimCore) -> None:
        if core.wakes_at_s is not None and self._wakes_at_s.get(core.name) != core.wakes_at_s:
            self._wakes_at_s[core.name] = core.wakes_at_s
            self._at(core.wakes_at_s, self._on_wake, core)

    def _on_wake(self, core: SimCore, now: float) -> None:
        if core.wakes_at_s != now or self._cores.get(core.name) is not core:
            return  # the steps that ran then were cut short
        core.wake(now)
        self._schedule_wake(core)
        self._on_publish(core, now)
        if core.name in self._retiring and not core.num_running:
            self._remove_retired(core, now)

    def _on_publish(self, core: SimCore, now: float) -> None:
        """A step has ended: those with requests in the core hear of its load."""
        live = self._live.get(core.name)
        if live and core.name in self._ready:
            load = core.load
            for number in live:
                self._frontends[number].on_load(core.name, load)

    def _on_beat(self, core: SimCore, now: float) -> None:
        if self._cores.get(core.name) is not core:
            return
        if core.name in self._ready:
            load = core.load
            for frontend in self._frontends:
                frontend.on_load(core.name, load)
        self._at(now + BEAT_INTERVAL_S, self._on_beat, core)

    # --- cores that come and go ---

    def _add_core(self, now: float) -> str:
        name = str(next(self._core_numbers))
        core = SimCore(name, self._settings.core, self, has_closed_form=self._has_closed_form)
        self._cores[name] = core
        self._ready[name] = None
        self._live[name] = Counter()
        self._core_since_s[name] = now
        self.results.requests_of_cores[name] = 0
        self.results.max_num_cores = max(self.results.max_num_cores, len(self._cores))
        self._at(now + BEAT_INTERVAL_S * (len(self._cores) % 64) / 64, self._on_beat, core)
        return name

    def _tell_cores(self, news: frozenset[str]) -> None:
        names = list(self._ready)
        for frontend in self._frontends:
            frontend.on_cores_changed(names, news)

    def _on_failure(self, _: None, now: float) -> None:
        """The oldest core dies."""
        living = [name for name in self._ready if name in self._cores]
        if not living:
            return
        name = living[0]
        core = self._cores.pop(name)
        self._limbo[name] = core.stop(now)
        self._count_core(name, core, now)
        self._at(now + self._settings.detect_s, self._on_failure_known, name)
        self._at(now + self._settings.start_s, self._on_core_ready, None)

    def _on_failure_known(self, name: str, now: float) -> None:
        """Frontends let it go; what it had goes elsewhere, with what was emitted."""
        self._ready.pop(name, None)
        self._tell_cores(frozenset())
        self._move(self._limbo.pop(name), now)

    def _move(self, requests: list[SimRequest], now: float) -> None:
        for request in requests:
            self._leave(request)
            request.num_moves += 1
            self.results.num_moved += 1
            self._place(request, now)

    def _on_core_ready(self, _: None, now: float) -> None:
        name = self._add_core(now)
        self._tell_cores(frozenset({name}))
        homeless, self._homeless = self._homeless, []
        for request in homeless:
            self._place(request, now)

    def _on_scaling(self, _: None, now: float) -> None:
        """As many cores as the policy wants, one more or less at a time."""
        assert self._policy_of_size is not None
        max_num_seqs = self._settings.core.max_num_seqs
        loads = [CoreLoad(self._cores[name].load, max_num_seqs) for name in self._ready if name in self._cores]
        num_wanted = self._policy_of_size.num_wanted(now, self._num_wanted, loads)
        for _number in range(num_wanted - self._num_wanted):
            self._at(now + self._settings.start_s, self._on_core_ready, None)
        for _number in range(self._num_wanted - num_wanted):
            self._retire_one(now)
        self._num_wanted = num_wanted
        self._at(now + SCALING_INTERVAL_S, self._on_scaling, None)

    def _retire_one(self, now: float) -> None:
        """The core with the fewest requests takes no more, and ends when those that run have ended."""
        candidates = [self._cores[name] for name in self._ready if name in self._cores]
        core = min(candidates, key=lambda core: core.num_running)
        del self._ready[core.name]
        self._retiring.add(core.name)
        self._tell_cores(frozenset())
        for request in core.withdraw_waiting():
            self._leave(request)
            self._place(request, now)
        if not core.num_running:
            self._remove_retired(core, now)

    def _remove_retired(self, core: SimCore, now: float) -> None:
        self._retiring.discard(core.name)
        del self._cores[core.name]
        self._count_core(core.name, core, now)

    def _count_core(self, name: str, core: SimCore, now: float) -> None:
        """A core is gone, or the run is over."""
        self.results.core_s += max(0.0, now - max(self._core_since_s[name], self._settings.warm_up_s))
        self.results.busy_s += core.busy_until(now)
        self.results.num_preemptions += core.num_preemptions

    def _at(self, when_s: float, action: Callable[[Any, float], None], argument: Any) -> None:
        heapq.heappush(self._events, (when_s, next(self._event_numbers), action, argument))


def welcome_of(core: CoreSettings, max_model_len: int) -> Welcome:
    """What such a core would say about itself."""
    return Welcome(
        epoch=1,
        core_pid=1,
        core_pid_start_ticks=1,
        model_id="simulated",
        model_fingerprint="simulated",
        tokenizer_dir="",
        vocab_size=1 << 31,
        eos_token_ids=(),
        max_model_len=max_model_len,
        block_size=core.block_size,
        num_blocks=core.num_blocks,
        max_num_seqs=core.max_num_seqs,
        embedding_size=0,
        max_queued_requests=1 << 30,
        max_queued_tokens=1 << 30,
        beat_interval_ms=int(BEAT_INTERVAL_S * 1000),
        lease_ms=10_000,
        dtype="",
        device="",
        core_version="",
    )
