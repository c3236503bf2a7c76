"""Load is one number: 1 for a quarter of the seats, 16 waiting requests, or 4,096 waiting tokens."""

import pytest

from frontend.routing.core_load import USUAL_SCALE, LoadScale
from ipc.messages import Load
from ipc.placement import CoreView
from tests.factories import make_welcome


def load_of(num_sent: int = 0, num_tokens_sent: int = 0, num_known_tokens: int = 0, **load: int) -> float:
    core = CoreView(
        "0",
        is_ready=True,
        welcome=make_welcome(max_num_seqs=64, block_size=16),
        load=Load(**{"num_free_blocks": 1000, "num_blocks": 1000, **load}),
        num_sent_since=num_sent,
        num_tokens_sent_since=num_tokens_sent,
    )
    return USUAL_SCALE.load_of(core, 100, num_known_tokens)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ({}, 0),
        ({"num_running": 16}, 1),
        ({"num_running": 63}, 63 / 16),
        ({"num_running": 64}, 4 + 1),
        ({"num_waiting": 8}, 8 / 16 + 8 / 16),
        ({"num_sent": 8}, 8 / 16 + 8 / 16),
        ({"num_waiting": 8, "num_queued_tokens": 4096}, 2),
        ({"num_sent": 8, "num_tokens_sent": 4096}, 2),
        ({"num_sent": 8, "num_tokens_sent": 4096, "num_known_tokens": 2048}, 1.5),
        ({"num_sent": 8, "num_tokens_sent": 4096, "num_known_tokens": 5000}, 1),
        ({"num_free_blocks": 6}, 1),
        ({"num_free_blocks": 7}, 0),
        ({"num_free_blocks": 0, "num_blocks": 0}, 0),
    ],
)
def test_what_waits_and_what_runs_add_up(what, expected):
    assert load_of(**what) == pytest.approx(expected)


def test_waiting_prompts_take_room_before_this_one():
    assert (
        load_of(num_free_blocks=100, num_queued_tokens=1599)
        > load_of(num_free_blocks=200, num_queued_tokens=1599) + 0.9
    )


def test_a_core_that_refuses_is_worse_than_any_other():
    assert load_of(retry_after_ms=100) > load_of(num_running=64, num_waiting=1000, num_queued_tokens=10**6)


def test_the_scale_can_be_changed():
    core = CoreView("0", welcome=make_welcome(max_num_seqs=64), load=Load(num_running=16))
    assert LoadScale(seats=0.5).load_of(core, 0) == pytest.approx(USUAL_SCALE.load_of(core, 0) / 2)


def test_a_core_that_has_not_said_how_large_it_is_has_one_seat():
    assert USUAL_SCALE.load_of(CoreView("0"), 10) == 0
    assert USUAL_SCALE.load_of(CoreView("0", load=Load(num_running=1)), 10) > 1
