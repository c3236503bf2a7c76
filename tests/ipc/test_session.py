from array import array
from dataclasses import replace

import pytest

from ipc import codec
from ipc.errors import ContextLengthError, EngineUnavailableError, QueueFullError, RequestFailedError
from ipc.messages import Bye, CoreBeat, CoreState, Finished, FinishReason, Reject, RequestId, Step
from ipc.session import RequestOutputs, Session
from tests.factories import make_welcome

WELCOME = make_welcome(epoch=5)


def tell(session, message, epoch=5):
    session.receive(codec.encode(message, epoch))


def make_session():
    """A welcomed session with one live request."""
    session = Session()
    tell(session, WELCOME)
    request = RequestOutputs(session.next_request_id())
    session.requests[request.request_id] = request
    return session, request


def make_step(request, token_ids, sequence=1, finished=()):
    rids = array("Q", [request.request_id] * len(token_ids))
    return Step(sequence, 1, rids, array("i", token_ids), finished)


def make_finished(request, reason=FinishReason.LENGTH, **fields):
    return Finished(request.request_id, reason, num_prompt_tokens=1, num_output_tokens=2, **fields)


def test_a_welcome_makes_it_ready():
    session, _ = make_session()
    assert session.is_ready
    assert session.epoch == 5


def test_deltas_merge_until_they_are_read():
    session, request = make_session()
    tell(session, make_step(request, [3, 4]))
    tell(session, make_step(request, [5], sequence=2))
    assert request.try_take().token_ids == [3, 4, 5]
    assert request.try_take() is None


def test_the_terminal_output_comes_with_the_last_tokens():
    session, request = make_session()
    tell(session, make_step(request, [3], finished=(make_finished(request),)))
    output = request.try_take()
    assert (output.token_ids, output.finished.reason) == ([3], FinishReason.LENGTH)
    assert session.requests == {}


def test_an_error_is_raised_after_the_tokens_before_it():
    session, request = make_session()
    finished = make_finished(request, FinishReason.ERROR, error_code="nan_logits", error_message="bad")
    tell(session, make_step(request, [3], finished=(finished,)))
    assert request.try_take().token_ids == [3]
    with pytest.raises(RequestFailedError, match="bad") as caught:
        request.try_take()
    assert caught.value.code == "nan_logits"


def test_a_gap_in_the_sequence_fails_every_request():
    session, request = make_session()
    tell(session, make_step(request, [3], sequence=2))
    with pytest.raises(RequestFailedError) as caught:
        request.try_take()
    assert caught.value.code == "stream_gap"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("queue_full", QueueFullError),
        ("context_length_exceeded", ContextLengthError),
        ("draining", EngineUnavailableError),
    ],
)
def test_a_reject_becomes_its_error(code, error):
    session, request = make_session()
    tell(session, Reject(request.request_id, code, "no", retry_after_ms=1500))
    with pytest.raises(error, match="no"):
        request.try_take()


def test_outputs_of_another_epoch_are_dropped():
    session, request = make_session()
    tell(session, make_step(request, [3]), epoch=4)
    assert request.try_take() is None


def test_losing_the_core_ends_every_request():
    session, request = make_session()
    session.lose("killed")
    assert session.state is None
    with pytest.raises(EngineUnavailableError):
        request.try_take()


def test_a_bye_means_that_the_core_is_lost():
    session, _ = make_session()
    tell(session, Bye("drained"))
    assert not session.is_ready


def test_a_new_core_ends_the_requests_of_the_old_one_and_counts_from_one():
    session, old = make_session()
    tell(session, replace(WELCOME, epoch=6), epoch=6)
    with pytest.raises(EngineUnavailableError):
        old.try_take()
    new = session.requests[session.next_request_id()] = RequestOutputs(RequestId(2))
    tell(session, make_step(new, [9]), epoch=6)
    assert new.try_take().token_ids == [9]


def test_a_repeated_welcome_changes_nothing():
    session, request = make_session()
    tell(session, make_step(request, [3]))
    tell(session, WELCOME)
    tell(session, make_step(request, [4], sequence=2))
    assert request.try_take().token_ids == [3, 4]


def test_a_draining_core_is_not_ready():
    session, _ = make_session()
    tell(session, CoreBeat(1, CoreState.DRAINING, 1, 0))
    assert (session.state, session.is_ready) == (CoreState.DRAINING, False)


def test_the_stage_of_loading_is_known():
    session = Session()
    tell(session, CoreBeat(1, CoreState.LOADING, 0, 0, detail="reading weights"))
    assert (session.state, session.detail) == (CoreState.LOADING, "reading weights")


def test_junk_is_counted_and_dropped():
    session, _ = make_session()
    session.receive([b"junk"])
    assert (session.num_bad_messages, session.is_ready) == (1, True)
