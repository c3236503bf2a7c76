"""Random requests of all kinds on a small cache: the promises of the scheduler, whatever comes."""

from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine_core.request import RequestStatus
from engine_core.scheduler import places
from engine_core.scheduler import scheduler as scheduler_module
from engine_core.scheduler.admission_order import LEVELS_OF_WHOLE_CACHE
from ipc.messages import RequestClass
from tests.engine_core.scheduler.simulation import Simulation
from tests.factories import BLOCK_SIZE, make_params, make_request

NUM_BLOCKS = 10
MAX_TIMES_SKIPPED = 2
"""Instead of the real limit, so that short examples reach it."""
AGEING_S = 10.0


class SchedulerMachine(RuleBasedStateMachine):
    """Time passes with each step, so that ageing counts."""

    def __init__(self):
        super().__init__()
        self.patch = patch.object(scheduler_module, "MAX_TIMES_SKIPPED", MAX_TIMES_SKIPPED)
        self.patch.start()
        self.now = 0.0
        self.arrived = []
        self.num_online_admissions = 0
        self.num_passes = {}
        """How often a request was passed by one that should come later, without a reason."""

    @initialize(
        policy=st.sampled_from(["fcfs", "priority", "memory_aware"]),
        max_num_seqs=st.integers(1, 6),
        budget=st.integers(16, 64),
        chunk=st.integers(16, 48),
        batch_share=st.sampled_from([0.1, 0.5]),
        speculation=st.sampled_from([{}, {"speculative": "ngram"}]),
        draft_tokens=st.integers(1, 20),
        max_batch=st.integers(1, 6),
    )
    def start(self, policy, max_num_seqs, budget, chunk, batch_share, speculation, draft_tokens, max_batch):
        self.policy = policy
        self.simulation = Simulation(
            num_blocks=NUM_BLOCKS,
            scheduling_policy=policy,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=budget,
            max_prefill_chunk=chunk,
            batch_share=batch_share,
            priority_ageing=AGEING_S,
            speculative_tokens=draft_tokens,
            speculative_max_batch=max_batch,
            **speculation,
        )
        self.scheduler = self.simulation.scheduler

    @rule(
        prompt=st.integers(0, 3),
        length=st.integers(1, NUM_BLOCKS * BLOCK_SIZE - 1),
        max_tokens=st.integers(1, 3 * BLOCK_SIZE),
        flow=st.sampled_from("abc"),
        request_class=st.sampled_from(RequestClass),
        priority=st.integers(-2, 2),
    )
    def arrive(self, prompt, length, max_tokens, flow, request_class, priority):
        max_tokens = min(max_tokens, NUM_BLOCKS * BLOCK_SIZE - length)
        request = make_request(
            [prompt] * length,
            sampling_params=make_params(max_tokens=max_tokens),
            flow=flow,
            request_class=request_class,
            priority=priority,
            arrived_at=self.now,
        )
        self.arrived += self.simulation.add(request)
        self.num_passes[request.key] = 0

    @precondition(lambda self: self.simulation.requests)
    @rule(data=st.data())
    def abort(self, data):
        requests = list(self.simulation.requests.values())
        self.simulation.abort(requests[data.draw(st.integers(0, len(requests) - 1))])

    @precondition(lambda self: self.simulation.requests)
    @rule(count=st.integers(1, 12), seconds=st.sampled_from([0.01, 0.1, 1.0]))
    def step(self, count, seconds):
        for _ in range(count):
            self.now += seconds
            deferred_before = self.deferred()
            running_before = [r for r in self.simulation.requests.values() if r.status is RequestStatus.RUNNING]
            plan = self.simulation.step(seconds)
            self.check_victims(running_before)
            self.count_passes(plan, deferred_before | self.deferred())
            self.check()
            if not self.scheduler.has_requests:
                return
            assert plan.scheduled, "a step without any work although there is some"

    @invariant()
    def check(self):
        if self.arrived:
            self.simulation.kv_cache.check_integrity()
            load = self.scheduler.load
            assert load.num_running + load.num_waiting == len(self.simulation.requests)
            assert load.num_queued_tokens == sum(request.num_tokens for request in self.waiting())

    @invariant()
    def nobody_is_passed_without_bound(self):
        """Within a flow, those that should come later pass only over a head that does not fit, and only so often."""
        assert all(count <= MAX_TIMES_SKIPPED for count in self.num_passes.values())

    @invariant()
    def seats_are_not_passed_round(self):
        """Between flows a request gives way so often at most; a batch request gives way to online any number of times,
        but each time at least one online request is admitted."""
        limit = places.MAX_PREEMPTIONS * len(self.arrived) + self.num_online_admissions * self.simulation.max_num_seqs
        assert self.arrived == [] or self.scheduler.num_fairness_preemptions <= limit

    def teardown(self):
        """Every request ends, in no more steps than its tokens take if each step computed one of them ten times."""
        if self.arrived:
            requests = self.simulation.requests.values()
            num_tokens = sum(request.num_prompt_tokens + request.sampling_params.max_tokens for request in requests)
            self.simulation.run(max_steps=10 * num_tokens)
            self.simulation.kv_cache.check_idle()
        self.patch.stop()

    def request_class_of(self, key):
        return next(request.request_class for request in self.arrived if request.key == key)

    def waiting(self):
        return [r for r in self.simulation.requests.values() if r.status is not RequestStatus.RUNNING]

    def deferred(self):
        """Keys of requests that wait for a prefix that another is computing."""
        waiting = self.waiting()
        return {request.key for request in waiting if self.simulation.kv_cache.computing_request(request) is not None}

    def simulation_seats(self):
        return self.simulation.max_num_seqs

    def check_victims(self, running_before):
        """Online loses its place only to online: where it lost one, no batch request was admitted or kept blocks."""
        victims = [r for r in running_before if r.status is RequestStatus.PREEMPTED]
        if any(victim.request_class is RequestClass.ONLINE for victim in victims):
            running = [r for r in self.simulation.requests.values() if r.status is RequestStatus.RUNNING]
            new_online = [r for r in running if r not in running_before and r.request_class is RequestClass.ONLINE]
            assert new_online or all(r.request_class is RequestClass.ONLINE for r in running)

    def count_passes(self, plan, deferred):
        for new in plan.new_requests:
            self.num_online_admissions += self.request_class_of(new.key) is RequestClass.ONLINE
            admitted = next(request for request in self.arrived if request.key == new.key)
            if admitted.num_preemptions:
                continue  # one that comes back was admitted before
            for request in self.waiting():
                is_same_flow = (request.request_class, request.flow) == (admitted.request_class, admitted.flow)
                if is_same_flow and request.key not in deferred and self.comes_before(request, admitted):
                    self.num_passes[request.key] += 1

    def comes_before(self, request, other):
        """By more than what ageing can make up for: no matter what was or is in between."""
        if self.policy == "fcfs":
            return request.key < other.key
        if self.policy == "priority":
            head_start_s = (request.priority - other.priority) * AGEING_S
            return other.times.arrived_at - request.times.arrived_at > head_start_s
        head_start_s = (request.priority - other.priority + LEVELS_OF_WHOLE_CACHE) * AGEING_S
        return other.times.arrived_at - request.times.arrived_at > head_start_s


SchedulerMachine.TestCase.settings = settings(stateful_step_count=40)
TestSchedulerMachine = SchedulerMachine.TestCase
