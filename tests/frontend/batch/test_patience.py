"""What is tried again, and what is final."""

from pathlib import Path

import pytest

from frontend.batch.patience import Patience
from ipc.client import EngineClient
from ipc.errors import EngineUnavailableError, InvalidRequestError, QueueFullError, RequestFailedError
from ipc.messages import ClientRole

NO_CORE = EngineClient(Path("/nowhere"), name="test", role=ClientRole.BATCH)
"""One that was never started: nothing runs, and nothing waits."""


@pytest.mark.parametrize(
    ("error", "is_tried_again"),
    [
        (EngineUnavailableError("it starts"), True),
        (EngineUnavailableError("ended on purpose", code="aborted"), False),
        (RequestFailedError("a gap", code="stream_gap"), True),
        (RequestFailedError("no number", code="nan_logits"), False),
        (InvalidRequestError("wrong"), False),
    ],
)
def test_only_what_holds_for_now_is_tried_again(error, is_tried_again):
    wait_s = Patience(NO_CORE).wait_s(error)
    assert (wait_s is not None) == is_tried_again


def test_waits_grow_up_to_a_limit():
    patience = Patience(NO_CORE)
    waits = [patience.wait_s(EngineUnavailableError("it starts")) for _ in range(20)]
    assert waits == sorted(waits)
    assert waits[0] < waits[-1] == waits[-2] < 1


def test_a_full_queue_of_an_idle_engine_is_final():
    patience = Patience(NO_CORE)
    assert [patience.wait_s(QueueFullError("full")) is None for _ in range(5)] == [False] * 4 + [True]


def test_a_request_is_lost_a_few_times_at_most():
    patience = Patience(NO_CORE)
    error = RequestFailedError("a gap", code="stream_gap")
    assert [patience.wait_s(error) is None for _ in range(4)] == [False, False, False, True]
