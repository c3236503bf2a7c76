"""All requests of the scheduler, waiting and running, as classes → flows → requests, and whose turn it is.

- Between the classes (online, batch) and between the flows of a class the smallest virtual token counter is next
  (`virtual_counters`); classes weigh 1 - `batch_share` and `batch_share`. Within a flow: `admission_order`.
- Seats (`max_num_seqs`) are shared too, or a flow that came first would hold all of them for the length of its answers:
  `seat_givers` are those of whom one should give its up.

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
from engine_core.scheduler.request_queue import RequestQueue
from engine_core.scheduler.virtual_counters import Share, VirtualCounters
from ipc.messages import RequestClass

MAX_PAST_FLOWS = 4096
DECODE_WEIGHT = 2
"""A decoded token costs as much as two prefilled ones (the weights of the VTC paper)."""

CLASS_SEAT_MARGIN = 2
"""Equal shares of tokens need unequal seats, since batch is left out of some steps: only a gross lack is made up for by
preemption, the rest as seats become free. With 1, classes that are both saturated preempt each other all the time."""


@dataclass(slots=True, eq=False)
class Flow(Share):
    """The requests of one user, API key or job within a class."""

    name: str = field(kw_only=True)
    request_class: RequestClass = field(kw_only=True)
    waiting: RequestQueue = field(kw_only=True)
    running: dict[RequestKey, Request] = field(default_factory=dict)
    """In order of admission."""


@dataclass(slots=True, eq=False)
class ClassOfFlows(Share):
    """The flows of one class."""

    flows: dict[str, Flow] = field(default_factory=dict)
    counters: VirtualCounters = field(default_factory=VirtualCounters)
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

    def __init__(self, order: AdmissionOrder, batch_share: float) -> None:
        self._order = order
        self._counters = VirtualCounters()
        self._classes = {
            RequestClass.ONLINE: ClassOfFlows(weight=1 - batch_share),
            RequestClass.BATCH: ClassOfFlows(weight=batch_share),
        }
        self._flow_of: dict[RequestKey, Flow] = {}
        self.num_waiting = 0
        self.num_running = 0
        self.num_waiting_tokens = 0
        """Known tokens of all waiting requests."""

    @property
    def is_batch_owed(self) -> bool:
        """True while both classes have requests and batch has had less than its share."""
        online, batch = self._classes[RequestClass.ONLINE], self._classes[RequestClass.BATCH]
        return online.is_active and batch.is_active and batch.counter < online.counter

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
        if group.num_waiting == 0:
            self._counters.lift(group, self._classes.values())
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
        self._drop_if_empty(request, flow)

    def start(self, request: Request) -> None:
        """A waiting request runs from now on; to be called before its status changes."""
        flow = self._take_out(request)
        flow.running[request.key] = request
        self._count_running(self._classes[request.request_class], flow, 1)

    def stop(self, request: Request) -> None:
        """A running request leaves; one that is preempted is added again after that."""
        flow = self._flow_of.pop(request.key)
        del flow.running[request.key]
        self._count_running(self._classes[request.request_class], flow, -1)
        self._drop_if_empty(request, flow)

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

    def candidates(self, classes: Sequence[RequestClass], count: int) -> Iterator[Request]:
        """Waiting requests in the order in which they should be admitted: all first ones of the flows, then the second.

        At most `count` of each class, so that a crowd of one class does not hide the other.
        """
        groups = [self._classes[request_class] for request_class in classes]
        for group in sorted(groups, key=_counter):
            flows = group.waiting_flows(count)
            places = ((depth, flow) for depth in range(count) for flow in flows if depth < flow.num_waiting)
            for _, (depth, flow) in zip(range(count), places, strict=False):
                yield flow.waiting[depth]

    def seat_givers(self, head: Request) -> list[Request]:
        """Running requests of the flow that holds too many seats while `head`'s holds too few; empty if none does.

        First between the classes (then the flow with most seats of the other class gives), then between flows.
        """
        group, flow = self._classes[head.request_class], self._flow_of[head.key]
        for other in self._classes.values():
            if other is not group and group.can_take_seat_from(other, CLASS_SEAT_MARGIN):
                return list(max(other.flows.values(), key=_num_running).running.values())
        giver = max(group.flows.values(), key=_num_running)
        return list(giver.running.values()) if flow.can_take_seat_from(giver) else []

    def _charge(self, flow: Flow, num_tokens: int) -> None:
        group = self._classes[flow.request_class]
        group.counters.charge(flow, num_tokens)
        self._counters.charge(group, num_tokens)

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

    def _count_running(self, group: ClassOfFlows, flow: Flow, change: int) -> None:
        flow.num_running += change
        group.num_running += change
        self.num_running += change

    def _drop_if_empty(self, request: Request, flow: Flow) -> None:
        if not flow.is_active:
            group = self._classes[request.request_class]
            del group.flows[flow.name]
            group.remember(flow)


def _counter(share: Share) -> float:
    return share.counter


def _num_running(share: Share) -> int:
    return share.num_running
