import time
from array import array

import pytest

from ipc.errors import EngineUnavailableError, RequestTimeoutError
from ipc.messages import RequestId, Started
from ipc.recovery import MAX_WAIT_S, CoreLossPolicy, Recovery
from ipc.request_options import new_add
from ipc.request_outputs import RequestOutputs
from tests.factories import make_params, make_welcome

LOSS = EngineUnavailableError("lost", code="engine_restarted")
CORE = make_welcome(model_fingerprint="m", tokenizer_fingerprint="t")


def make_orphan(request_id=1, emitted=(), **options):
    """A request that a core had."""
    request = RequestOutputs(new_add(RequestId(request_id), [1, 2], make_params(), **options))
    request.core, request.num_cores = CORE, 1
    for token_id in emitted:
        request.push_token(token_id)
    return request


def error_of(request):
    """What its reader gets, behind what came before."""
    while request.try_take() is not None:
        pass


@pytest.mark.parametrize("policy", CoreLossPolicy)
def test_a_request_that_has_not_begun_is_sent_again_as_it_was(policy):
    recovery, request = Recovery(policy), make_orphan()
    recovery.hold([request], LOSS)
    assert recovery.take_for(CORE) == [request]
    assert len(recovery) == 0
    assert request.next_add() == request.add


def test_a_request_that_has_begun_goes_on_behind_what_it_emitted():
    recovery, request = Recovery(CoreLossPolicy.RESUME), make_orphan(emitted=(7, 8))
    recovery.hold([request], LOSS)
    [taken] = recovery.take_for(CORE)
    add = taken.next_add()
    assert (add.prompt_token_ids, add.num_resumed_tokens) == (array("i", [1, 2, 7, 8]), 2)
    assert add.request_id == request.request_id


def test_a_third_core_gets_what_the_first_two_emitted():
    request = make_orphan(emitted=(7,), num_resumed_tokens=1)
    request.num_cores = 2
    request.push_token(8)
    add = request.next_add()
    assert (add.prompt_token_ids, add.num_resumed_tokens) == (array("i", [1, 2, 7, 8]), 3)


def test_under_the_policy_fail_a_request_that_has_begun_ends():
    recovery, request = Recovery(CoreLossPolicy.FAIL), make_orphan(emitted=(7,))
    recovery.hold([request], LOSS)
    assert len(recovery) == 0
    with pytest.raises(EngineUnavailableError) as caught:
        error_of(request)
    assert caught.value.code == "engine_restarted"


def test_what_a_retiring_core_gives_back_goes_on_under_every_policy():
    recovery, request = Recovery(CoreLossPolicy.FAIL), make_orphan(emitted=(7,))
    recovery.hold([request])
    assert recovery.take_for(CORE) == [request]


@pytest.mark.parametrize(
    ("emitted", "fields"),
    [
        ((7,), {"model_fingerprint": "other"}),
        ((), {"tokenizer_fingerprint": "other"}),
        ((), {"vocab_size": 11}),
    ],
)
def test_a_core_with_another_model_gets_nothing_that_it_would_take_wrongly(emitted, fields):
    recovery, request = Recovery(CoreLossPolicy.RESUME), make_orphan(emitted=emitted)
    recovery.hold([request], LOSS)
    assert recovery.take_for(make_welcome(**{"model_fingerprint": "m", "tokenizer_fingerprint": "t", **fields})) == []
    with pytest.raises(EngineUnavailableError) as caught:
        error_of(request)
    assert caught.value.code == "engine_replaced"


def test_a_request_that_has_not_begun_goes_to_another_model_with_the_same_tokenizer():
    recovery, request = Recovery(CoreLossPolicy.RESUME), make_orphan()
    recovery.hold([request], LOSS)
    assert recovery.take_for(make_welcome(model_fingerprint="other", tokenizer_fingerprint="t")) == [request]


@pytest.mark.parametrize(("adapters", "is_taken"), [(("sql", "chat"), True), (("chat",), False), ((), False)])
def test_a_request_goes_only_to_a_core_that_has_its_adapter(adapters, is_taken):
    recovery, request = Recovery(CoreLossPolicy.RESUME), make_orphan(adapter="sql")
    recovery.hold([request], LOSS)
    taken = recovery.take_for(make_welcome(model_fingerprint="m", tokenizer_fingerprint="t", adapters=adapters))
    assert taken == ([request] if is_taken else [])
    if not is_taken:
        with pytest.raises(EngineUnavailableError, match="adapter") as caught:
            error_of(request)
        assert caught.value.code == "engine_replaced"


def test_a_resumed_request_keeps_its_adapter():
    assert make_orphan(emitted=(7,), adapter="sql").next_add().adapter == "sql"


def test_the_time_of_a_request_runs_on_without_a_core():
    recovery, request = Recovery(CoreLossPolicy.RESUME), make_orphan(timeout_s=5)
    recovery.hold([request], LOSS)
    recovery.expire(request.sent_at + 4.9)
    assert len(recovery) == 1
    recovery.expire(request.sent_at + 5.1)
    with pytest.raises(RequestTimeoutError):
        error_of(request)


@pytest.mark.parametrize(("own_s", "setting_s"), [(60, 0), (0, 60), (60, 90), (90, 60)])
def test_the_next_core_gets_the_time_that_is_left(own_s, setting_s):
    request = make_orphan(timeout_s=own_s)
    request.core = make_welcome(request_timeout_ms=setting_s * 1000)
    request.sent_at = time.monotonic() - 20
    assert 39_000 < request.next_add().timeout_ms <= 40_000


def test_a_core_that_never_comes_back_is_not_waited_for():
    recovery, request = Recovery(CoreLossPolicy.RESUME), make_orphan()
    recovery.hold([request], LOSS)
    recovery.expire(time.monotonic() + MAX_WAIT_S + 1)
    with pytest.raises(EngineUnavailableError) as caught:
        error_of(request)
    assert caught.value.code == "engine_stopped"


def test_a_reader_that_leaves_is_forgotten():
    recovery, request = Recovery(CoreLossPolicy.RESUME), make_orphan()
    recovery.hold([request], LOSS)
    assert recovery.remove(request.request_id)
    assert not recovery.remove(request.request_id)
    assert recovery.take_for(CORE) == []


def test_cached_tokens_are_those_of_the_first_core():
    request = make_orphan()
    request.start(Started(request.request_id, 32))
    request.push_token(7)
    request.start(Started(request.request_id, 2))
    assert request.try_take().num_cached_tokens == 32
