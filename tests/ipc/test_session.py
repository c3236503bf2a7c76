import itertools
from array import array
from dataclasses import replace

import pytest

from ipc import codec
from ipc.errors import (
    ContextLengthError,
    EngineUnavailableError,
    QueueFullError,
    RequestFailedError,
    RequestTimeoutError,
)
from ipc.messages import (
    CORE_RETIRED,
    Bye,
    CoreBeat,
    CoreState,
    Finished,
    FinishReason,
    Reject,
    RequestId,
    Started,
    Step,
)
from ipc.request_options import new_add
from ipc.request_outputs import RequestOutputs, TokenLogprobs
from ipc.session import Session
from tests.factories import make_params, make_welcome

WELCOME = make_welcome(epoch=5)
_ids = itertools.count(1)


def tell(session, message, epoch=5):
    session.receive(codec.encode(message, epoch))


def make_session():
    """A welcomed session with one live request."""
    session = Session()
    tell(session, WELCOME)
    request = make_live(session)
    return session, request


def make_live(session):
    """One more live request."""
    request = RequestOutputs(new_add(RequestId(next(_ids)), [1], make_params()))
    request.num_cores = 1
    session.requests[request.request_id] = request
    return request


def make_step(request, token_ids, sequence=1, finished=()):
    rids = array("Q", [request.request_id] * len(token_ids))
    return Step(sequence, 1, rids, array("i", token_ids), finished)


def make_finished(request, reason=FinishReason.LENGTH, **fields):
    return Finished(request.request_id, reason, num_prompt_tokens=1, num_output_tokens=2, **fields)


def make_logprob_step(rows, num_prompt_rows=None, sequence=1):
    """A STEP with these (request, row) pairs; every row that is not of a prompt has a token with it."""
    prompt_rows_left = dict(num_prompt_rows or {})
    step = Step(sequence, 1, array("Q"), array("i"), started=tuple(
        Started(request_id, 0, num_rows) for request_id, num_rows in prompt_rows_left.items()
    ))  # fmt: skip
    for request, row in rows:
        step.logprob_request_ids.append(request.request_id)
        step.logprob_counts.append(len(row.token_ids))
        step.logprob_ranks.append(row.rank)
        step.logprob_token_ids.extend(row.token_ids)
        step.logprobs.extend(row.logprobs)
        if prompt_rows_left.get(request.request_id, 0) > 0:
            prompt_rows_left[request.request_id] -= 1
        else:
            step.request_ids.append(request.request_id)
            step.token_ids.append(row.token_ids[0])
    return step


def make_row(token_id, num_entries=3):
    entries = range(num_entries)
    return TokenLogprobs(token_id + 1, tuple(token_id + n for n in entries), tuple(-0.5 * n for n in entries))


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


def test_logprobs_merge_like_their_tokens():
    session, request = make_session()
    rows = [make_row(3), make_row(4), make_row(5)]
    tell(session, make_logprob_step([(request, rows[0]), (request, rows[1])]))
    tell(session, make_logprob_step([(request, rows[2])], sequence=2))
    output = request.try_take()
    assert (output.token_ids, output.logprobs) == ([3, 4, 5], rows)
    tell(session, make_logprob_step([(request, make_row(6))], sequence=3))
    assert request.try_take().logprobs == [make_row(6)]


def test_logprobs_of_several_requests_in_one_step_do_not_mix():
    session, first = make_session()
    second = make_live(session)
    rows = [(first, make_row(3, num_entries=1)), (second, make_row(7, num_entries=21)), (first, make_row(4))]
    tell(session, make_logprob_step(rows))
    assert first.try_take().logprobs == [make_row(3, num_entries=1), make_row(4)]
    assert second.try_take().logprobs == [make_row(7, num_entries=21)]


def test_the_rows_of_a_prompt_come_first():
    session, request = make_session()
    rows = [make_row(n) for n in range(5)]
    tell(session, make_logprob_step([(request, row) for row in rows[:4]], {request.request_id: 3}))
    tell(session, make_logprob_step([(request, rows[4])], sequence=2))
    output = request.try_take()
    assert (output.prompt_logprobs, output.logprobs, output.token_ids) == (rows[:3], rows[3:], [3, 4])


def test_logprobs_of_an_aborted_request_are_dropped():
    session, request = make_session()
    gone = make_live(session)
    del session.requests[gone.request_id]
    tell(session, make_logprob_step([(gone, make_row(1)), (request, make_row(3))]))
    assert request.try_take().logprobs == [make_row(3)]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("timeout", RequestTimeoutError),
        ("queue_timeout", EngineUnavailableError),
        ("grammar_queue_full", EngineUnavailableError),
        ("nan_logits", RequestFailedError),
    ],
)
def test_a_failed_request_becomes_the_error_of_its_code(code, error):
    session, request = make_session()
    finished = make_finished(request, FinishReason.ERROR, error_code=code, error_message="m")
    tell(session, make_step(request, [], finished=(finished,)))
    with pytest.raises(error) as caught:
        request.try_take()
    assert caught.value.code == code


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


def test_the_requests_of_a_lost_core_are_orphans_once():
    session, request = make_session()
    session.lose("killed")
    assert (session.state, session.requests) == (None, {})
    assert session.take_orphans() == [request]
    assert session.take_orphans() == []
    assert request.try_take() is None


@pytest.mark.parametrize(
    ("bye", "code"), [("drained", "engine_stopped"), ("evicted", "engine_disconnected"), ("", "engine_disconnected")]
)
def test_a_bye_means_that_the_core_is_lost(bye, code):
    session, request = make_session()
    tell(session, Bye(bye))
    assert not session.is_ready
    assert (session.take_orphans(), session.loss.code) == ([request], code)


def test_a_new_core_leaves_the_requests_of_the_old_one_and_counts_from_one():
    session, old = make_session()
    tell(session, replace(WELCOME, epoch=6), epoch=6)
    assert session.take_orphans() == [old]
    new = make_live(session)
    tell(session, make_step(new, [9]), epoch=6)
    assert new.try_take().token_ids == [9]


def test_a_new_core_that_was_heard_while_it_loaded_leaves_the_requests_of_the_old_one():
    session, old = make_session()
    tell(session, CoreBeat(1, CoreState.LOADING, 0, 0), epoch=6)
    tell(session, replace(WELCOME, epoch=6), epoch=6)
    assert session.take_orphans() == [old]


def test_what_a_retiring_core_gives_back_is_for_another():
    session, started = make_session()
    waiting = make_live(session)
    tell(session, CoreBeat(1, CoreState.RETIRING, 1, 0))
    tell(session, Reject(waiting.request_id, CORE_RETIRED, ""))
    tell(session, make_step(started, [3]))
    assert session.take_orphans() == [waiting]
    end = make_finished(started, FinishReason.ERROR, error_code=CORE_RETIRED)
    tell(session, make_step(started, [4], sequence=2, finished=(end,)))
    assert session.take_orphans() == [started]
    assert started.try_take().token_ids == [3, 4]
    assert (session.is_ready, session.is_welcomed) == (False, True)


@pytest.mark.parametrize("code", ["queue_full", "engine_unavailable"])
def test_a_request_that_had_a_core_before_is_not_refused_for_want_of_room(code):
    session, request = make_session()
    request.num_cores = 2
    tell(session, Reject(request.request_id, code, ""))
    assert session.take_orphans() == [request]


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


def test_a_repeated_welcome_while_draining_changes_nothing():
    session, request = make_session()
    tell(session, make_step(request, [3]))
    tell(session, CoreBeat(1, CoreState.DRAINING, 1, 0))
    tell(session, WELCOME)
    assert session.state is CoreState.DRAINING
    tell(session, make_step(request, [4], sequence=2))
    assert request.try_take().token_ids == [3, 4]


def test_a_core_that_drains_no_longer_is_ready_again():
    session, _ = make_session()
    for state in (CoreState.DRAINING, CoreState.READY):
        tell(session, CoreBeat(1, state, 1, 0))
    assert session.is_ready


def test_the_stage_of_loading_is_known():
    session = Session()
    tell(session, CoreBeat(1, CoreState.LOADING, 0, 0, detail="reading weights"))
    assert (session.state, session.detail) == (CoreState.LOADING, "reading weights")


def test_junk_is_counted_and_dropped():
    session, _ = make_session()
    session.receive(b"junk")
    assert (session.num_bad_messages, session.is_ready) == (1, True)


def test_requests_of_a_suspended_session_wait_until_the_core_welcomes_it_anew():
    session, request = make_session()
    session.suspend("its connection has ended")
    assert (session.is_ready, session.take_orphans()) == (False, [])
    tell(session, make_step(request, [7]))  # what comes before the welcome does not count
    tell(session, WELCOME)
    assert session.is_ready
    assert (session.take_orphans(), session.requests) == ([request], {})
    assert session.loss.code == "engine_disconnected"
    assert request.try_take() is None


def test_a_core_that_a_suspended_session_waits_for_in_vain_is_lost():
    session, request = make_session()
    session.suspend("its connection has ended")
    session.lose(session.detail)
    assert session.take_orphans() == [request]
