import pytest

from engine_core.request import RequestStatus
from engine_core.scheduler.admission_order import admission_order
from engine_core.scheduler.batch_share import BatchShare
from engine_core.scheduler.fair_queue import FairQueue
from engine_core.scheduler.places import MAX_PREEMPTIONS, Places, least_important
from ipc.config import SchedulerConfig
from ipc.messages import RequestClass
from tests.factories import BLOCK_SIZE, make_kv_cache, make_request

BATCH = RequestClass.BATCH


class Fixture:
    """Places beside requests that run, each with its own prompt."""

    def __init__(self, *running, num_blocks=32):
        self.kv_cache = make_kv_cache(num_blocks)
        self.share = BatchShare(0.1, 8)
        self.share.charge_batch(1e6)  # it keeps no seat
        self.queue = FairQueue(admission_order(SchedulerConfig(), 1000), self.share)
        self.places = Places(self.queue, self.kv_cache, self.share)
        for request in running:
            self.queue.add(request)
            self.queue.start(request)
            request.status = RequestStatus.RUNNING
            self.kv_cache.try_admit(request, 0)

    def victims_for(self, head, *, has_seat=False):
        self.queue.add(head)
        return self.places.victims_for(head, has_seat=has_seat)


def make_requests(count, num_tokens=10, **fields):
    return [make_request([100 * num_tokens + n] * num_tokens, **fields) for n in range(count)]


def test_online_takes_one_seat_of_batch():
    batch = make_requests(3, request_class=BATCH)
    assert len(Fixture(*batch).victims_for(make_request(1))) == 1


def test_for_blocks_it_takes_no_more_than_it_needs():
    batch = make_requests(4, BLOCK_SIZE, request_class=BATCH)
    fixture = Fixture(*batch, num_blocks=4)
    assert len(fixture.victims_for(make_request(BLOCK_SIZE), has_seat=True)) == 3  # two blocks must stay free beside it


def test_where_all_of_them_are_too_few_it_takes_none():
    online = make_requests(1, 3 * BLOCK_SIZE, flow="a")
    batch = make_requests(1, BLOCK_SIZE, request_class=BATCH)
    fixture = Fixture(*online, *batch, num_blocks=4)
    assert fixture.victims_for(make_request([1] * (2 * BLOCK_SIZE), flow="a"), has_seat=True) == []


def test_what_batch_keeps_is_not_taken():
    fixture = Fixture(*make_requests(1, request_class=BATCH))
    fixture.share.charge_online(1e6)
    assert fixture.victims_for(make_request(1)) is None


def test_batch_has_no_claim_to_places_of_online():
    fixture = Fixture(*make_requests(4))
    assert fixture.victims_for(make_request(1, request_class=BATCH)) is None


def test_batch_gives_way_by_turns():
    often, seldom = make_requests(2, request_class=BATCH)
    often.num_preemptions, seldom.num_computed_tokens = 5, 9
    assert Fixture(often, seldom).victims_for(make_request(1)) == [seldom]


@pytest.mark.parametrize(
    ("first", "second", "loser"),
    [
        ({"priority": 0}, {"priority": 3}, 1),
        ({"num_computed_tokens": 8}, {"num_computed_tokens": 5}, 1),
        ({"num_preemptions": MAX_PREEMPTIONS}, {"num_computed_tokens": 9}, 1),
        ({}, {}, 1),
    ],
)
def test_of_a_large_flow_the_least_important_request_gives_way(first, second, loser):
    running = [make_request([1], flow="a", **first), make_request([2], flow="a", **second)]
    assert Fixture(*running).victims_for(make_request(1, flow="b")) == [running[loser]]


def test_a_flow_with_its_share_has_no_claim():
    fixture = Fixture(*make_requests(2, flow="a"), *make_requests(1, flow="b"))
    assert fixture.victims_for(make_request(1, flow="b")) is None


@pytest.mark.parametrize(
    ("num_running", "comes_back", "num_spare"), [(0, True, 0), (5, False, 1), (5, True, 5), (1, False, 1)]
)
def test_spare_blocks(num_running, comes_back, num_spare):
    assert Fixture().places.num_spare_blocks(num_running, comes_back=comes_back) == num_spare


def test_when_blocks_run_out_batch_goes_before_a_less_important_online_request():
    online, batch = make_request(1, priority=9), make_request(1, request_class=BATCH)
    assert min([online, batch], key=least_important) is batch
