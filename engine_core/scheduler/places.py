"""Who gives up a place (a seat and blocks): for a waiting request that has a claim to it, or because blocks ran out.

Only decides; `scheduler` preempts, and admits the one with the claim in the same step, so a place that was taken for
a request goes to nobody else. Claims: online has one to the places of batch beyond those that batch keeps
(`batch_share`); a flow with few seats has one to those of a flow of its class with many (`virtual_counters`). Batch
has none to places of online.
"""

from collections.abc import Iterator, Sequence

from engine_core.kv_cache.kv_cache_manager import KVCacheManager
from engine_core.request import Request
from engine_core.scheduler.batch_share import BatchShare
from engine_core.scheduler.fair_queue import FairQueue
from ipc.messages import RequestClass

MAX_PREEMPTIONS = 2
"""A request that was preempted this often gives up no seat to its class any more, and its blocks only after others."""

_BATCH = (RequestClass.BATCH,)


class Places:
    """The claims to places."""

    def __init__(self, queue: FairQueue, kv_cache: KVCacheManager, batch_share: BatchShare) -> None:
        self._queue = queue
        self._kv_cache = kv_cache
        self._batch_share = batch_share

    def victims_for(self, head: Request, *, has_seat: bool) -> list[Request] | None:
        """The requests to preempt so that the waiting `head`, which has no place, can be admitted at once.

        Empty where it has a claim that does not give it enough now, None where it has no claim.
        `has_seat`: only blocks are missing.
        """
        has_claim = False
        for candidates in self._claims(head):
            has_claim = has_claim or bool(candidates)
            victims = self._enough_of(candidates, head, has_seat=has_seat)
            if victims:
                return victims
        return [] if has_claim else None

    def num_spare_blocks(self, num_running: int, *, comes_back: bool) -> int:
        """Blocks that must stay free beside a request that joins so many running ones; an idle core admits all.

        One that `comes_back` (after a preemption, or into a place taken from another) comes when each running request
        can grow by a block, so that nobody is thrown out again at once.
        """
        if num_running == 0:
            return 0
        num_spare = max(1, self._kv_cache.num_blocks // 100)
        return max(num_spare, num_running) if comes_back else num_spare

    def _claims(self, head: Request) -> Iterator[Sequence[Request]]:
        """Running requests that may have to give way to `head`, in the order in which they should."""
        num_free_for_all = self._queue.num_batch_running - self._batch_share.num_kept_seats
        if head.request_class is RequestClass.ONLINE and num_free_for_all > 0:
            yield sorted(self._queue.running(_BATCH), key=_loss_of_batch)[:num_free_for_all]
        for giver in sorted(self._queue.seat_givers(head), key=lambda flow: -flow.num_running):
            candidates = [request for request in giver.running.values() if request.num_preemptions < MAX_PREEMPTIONS]
            candidates.sort(key=_loss)
            while candidates and not self._queue.can_take_seats(head, giver, len(candidates)):
                candidates.pop()
            yield candidates

    def _enough_of(self, candidates: Sequence[Request], head: Request, *, has_seat: bool) -> list[Request]:
        """The first of the candidates whose places together are enough for `head`; empty where all are too few."""
        if not candidates or not self._fits_without(candidates, head):
            return []
        for count in range(0 if has_seat else 1, len(candidates)):
            if self._fits_without(candidates[:count], head):
                return list(candidates[:count])
        return list(candidates)

    def _fits_without(self, victims: Sequence[Request], head: Request) -> bool:
        num_spare = self.num_spare_blocks(self._queue.num_running - len(victims), comes_back=True)
        return self._kv_cache.can_admit(head, num_spare, without=victims)


def least_important(request: Request) -> tuple[bool, int, bool, int, int]:
    """Who goes first (the smallest) when blocks run out: batch, the lowest priority, who was not preempted often yet,
    the least computed, the latest."""
    is_online = request.request_class is RequestClass.ONLINE
    return (is_online, -request.priority, request.num_preemptions >= MAX_PREEMPTIONS, *_size(request))


def _loss(request: Request) -> tuple[int, int, int]:
    return (-request.priority, *_size(request))


def _loss_of_batch(request: Request) -> tuple[int, int, int]:
    """By turns, since online may take places from batch any number of times."""
    return (request.num_preemptions, *_size(request))


def _size(request: Request) -> tuple[int, int]:
    return (request.num_computed_tokens, -request.key)
