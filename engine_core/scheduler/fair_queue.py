"""All requests of the scheduler, waiting and running, as classes → flows → requests, and whose turn it is.

Between the classes (online, batch) `batch_share` decides, between the flows of a class the smallest virtual token
counter (`virtual_counters`), within a flow `admission_order`.

Invariants: every request is in exactly one flow, waiting or running; only flows with requests are kept, and the
counters of flows that left while others waited (at most `MAX_PAST_FLOWS`): to leave and come back gains nothing.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from engine_core.outputs import RequestKey
from engine_core.request import Request
from engine_core.scheduler.admission_order import AdmissionOrder
from engine_core.scheduler.batch_share import BatchShare
from engine_core.scheduler.request_queue import RequestQueue
from engine_core.scheduler.virtual_counters import Share, VirtualCounters
from ipc.messages import RequestClass

MAX_PAST_FLOWS = 4096
DECODE_WEIGHT = 2
"""A decoded token costs as much as two prefilled ones (the weights of the VTC paper)."""


@dataclass(slots=True, eq=False)
class Flow(Share):
    """The requests of one user, API key or job within a class."""

    name: str = field(kw_only=True)
    request_class: RequestClass = field(kw_only=True)
    waiting: RequestQueue = field(kw_only=True)
    running: dict[RequestKey, Request] = field(default_factory=dict)
    """In order of admission."""


@dataclass(slots=True, eq=False)
class ClassOfFlows:
    """The flows of one class."""

    flows: dict[str, Flow] = field(default_factory=dict)
    counters: VirtualCounters = field(default_factory=VirtualCounters)
    num_waiting: int = 0
    num_running: int = 0
    past_counters: dict[str, float] = field(default_factory=dict)
    """Of flows that left while others waited."""

    def waiting_flows(self, count: int) -> list[Flow]:
        """Flows with waiting requests, least served first (at equal counters fewest seats), at most `count`."""
        waiting = (flow for flow in self.flows.values() if flow.num_waiting)
        return heapq.nsmallest(count, waiting, key=lambda flow: (flow.counter, flow.num_running))

    def remember(self, flow: Flow) -> None:
        """A flow has left: keep its counter for as long as that could matter."""
        if self.num_waiting == 0:
            self.past_counters.clear()  # whoever comes back is lifted to the highest counter anyway
            return
        self.past_counters[flow.name] = flow.counter
        if len(self.past_counters) > MAX_PAST_FLOWS:
            most = heapq.nlargest(MAX_PAST_FLOWS // 2, self.past_counters.items(), key=lambda item: item[1])
            self.past_counters = dict(most)


class FairQueue:
    """Waiting and running requests of all classes and flows."""

    def __init__(self, order: AdmissionOrder, batch_share: BatchShare) -> None:
        self._order = order
        self._batch_share = batch_share
        self._classes = {RequestClass.ONLINE: ClassOfFlows(), RequestClass.BATCH: ClassOfFlows()}
        self._flow_of: dict[RequestKey, Flow] = {}
        self.num_waiting = 0
        self.num_running = 0
        self.num_waiting_tokens = 0
        """Known tokens of all waiting requests."""

    @property
    def num_batch_running(self) -> int:
        """Seats that batch holds."""
        return self._classes[RequestClass.BATCH].num_running

    @property
    def has_online(self) -> bool:
        """True while an online request runs or waits."""
        return bool(self._classes[RequestClass.ONLINE].flows)

    def add(self, request: Request) -> None:
        """Queue a request."""
        group = self._classes[request.request_class]
        flow = group.flows.get(request.flow)
        if flow is None:
            counter = group.past_counters.pop(request.flow, 0.0)
            flow = group.flows[request.flow] = Flow(
                counter=counter,
                name=request.flow,
                request_class=request.request_class,
                waiting=RequestQueue(self._order),
            )
        if group.num_waiting == 0 and request.request_class is RequestClass.BATCH:
            self._batch_share.forgive()
        if flow.num_waiting == 0:
            group.counters.lift(flow, group.flows.values())
        flow.waiting.add(request)
        self._flow_of[request.key] = flow
        self._count_waiting(group, flow, 1)
        self.num_waiting_tokens += request.num_tokens

    def remove(self, request: Request) -> None:
        """A waiting request leaves."""
        flow = self._take_out(request)
        del self._flow_of[request.key]
        self._drop_if_empty(flow)

    def start(self, request: Request) -> None:
        """A waiting request runs from now on; to be called before its status changes."""
        flow = self._take_out(request)
        flow.running[request.key] = request
        self._count_running(flow, 1)

    def stop(self, request: Request) -> None:
        """A running request leaves; one that is preempted is added again after that."""
        flow = self._flow_of.pop(request.key)
        del flow.running[request.key]
        self._count_running(flow, -1)
        self._drop_if_empty(flow)

    def charge_prefill(self, request: Request, num_tokens: int) -> None:
        """Count the tokens of a prefill chunk for the flow and the class of the request."""
        self._charge(self._flow_of[request.key], num_tokens)

    def charge_decodes(self, requests: Iterable[Request]) -> None:
        """Count one decoded token for each of these."""
        flow_of = self._flow_of
        for flow, num_tokens in Counter([flow_of[request.key] for request in requests]).items():
            self._charge(flow, num_tokens * DECODE_WEIGHT)

    def running(self, classes: Sequence[RequestClass]) -> Iterator[Request]:
        """Running requests: classes in the given order, least served flows first, then in order of admission."""
        for request_class in classes:
            flows = self._classes[request_class].flows.values()
            for flow in sorted(flows, key=_counter) if len(flows) > 1 else flows:
                yield from flow.running.values()

    def candidates(self, request_class: RequestClass, count: int) -> Iterator[Request]:
        """At most `count` waiting requests of a class, in the order in which they should be admitted.

        That is all first ones of the flows, then the second ones.
        """
        flows = self._classes[request_class].waiting_flows(count)
        places = ((depth, flow) for depth in range(count) for flow in flows if depth < flow.num_waiting)
        for _, (depth, flow) in zip(range(count), places, strict=False):
            yield flow.waiting[depth]

    def seat_givers(self, head: Request) -> list[Flow]:
        """Flows of the class of a waiting request that hold more seats than their share while its flow holds less."""
        flow = self._flow_of[head.key]
        flows = self._classes[head.request_class].flows.values()
        return [giver for giver in flows if giver is not flow and flow.can_take_seat_from(giver)]

    def can_take_seats(self, head: Request, giver: Flow, num_taken: int) -> bool:
        """True where the flow of a waiting request may have a place for which `giver` loses so many seats."""
        return self._flow_of[head.key].can_take_seat_from(giver, num_taken)

    def _charge(self, flow: Flow, cost: int) -> None:
        self._classes[flow.request_class].counters.charge(flow, cost)
        if flow.request_class is RequestClass.BATCH:
            self._batch_share.charge_batch(cost)
        elif self._classes[RequestClass.BATCH].flows:
            self._batch_share.charge_online(cost)

    def _take_out(self, request: Request) -> Flow:
        flow = self._flow_of[request.key]
        flow.waiting.remove(request)
        self._count_waiting(self._classes[request.request_class], flow, -1)
        self.num_waiting_tokens -= request.num_tokens
        return flow

    def _count_waiting(self, group: ClassOfFlows, flow: Flow, change: int) -> None:
        flow.num_waiting += change
        group.num_waiting += change
        self.num_waiting += change

    def _count_running(self, flow: Flow, change: int) -> None:
        flow.num_running += change
        self._classes[flow.request_class].num_running += change
        self.num_running += change

    def _drop_if_empty(self, flow: Flow) -> None:
        if flow.is_active:
            return
        group = self._classes[flow.request_class]
        del group.flows[flow.name]
        group.remember(flow)
        if flow.request_class is RequestClass.BATCH and not group.flows:
            self._batch_share.forgive()


def _counter(share: Share) -> float:
    return share.counter
