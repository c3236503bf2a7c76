"""Control calls: who may make them, and what they do to a real process."""

import base64
import contextlib
import signal
import time
from pathlib import Path

import pytest

from engine_core.control_calls import answer_tokenizer, why_refused
from ipc.errors import EngineUnavailableError, ServerError
from ipc.messages import CANCELLED, CORE_RETIRED, Bye, Call, CallMethod, ClientRole, CoreState, FinishReason, Reply
from ipc.structured_output import GrammarKind, StructuredOutput
from ipc.sync_client import SyncEngineClient
from tests.factories import make_params
from tests.processes import core_process, stats
from tests.waiting import wait_until

LONG = make_params(max_tokens=2000)
FOR_ADMINISTRATORS = sorted(
    set(CallMethod) - {CallMethod.PING, CallMethod.STATS, CallMethod.METRICS, CallMethod.CANCEL, CallMethod.TOKENIZER}
)


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    with core_process(tmp_path_factory.mktemp("core"), fake_step_ms=5) as core:
        yield core


@pytest.fixture
def client(core):
    """On a core that has nothing to do and is ready, also for the next test."""
    client = core.connect()
    yield client
    client.call(CallMethod.ABORT)
    client.call(CallMethod.RESUME)


@pytest.fixture
def mortal_core(tmp_path):
    with core_process(tmp_path, fake_step_ms=5) as core:
        yield core


@pytest.mark.parametrize("role", [ClientRole.FRONTEND, ClientRole.BATCH])
@pytest.mark.parametrize("method", sorted(set(CallMethod) - {CallMethod.CANCEL}))
def test_what_changes_something_is_for_administrators(method, role):
    refusal = why_refused(Call(1, method), role)
    assert refusal == (f"{method.name} is for administrators" if method in FOR_ADMINISTRATORS else "")


def test_frontends_may_cancel_and_batch_jobs_may_not():
    call = Call(1, CallMethod.CANCEL, {"id": "x"})
    assert [why_refused(call, role) for role in (ClientRole.FRONTEND, ClientRole.ADMIN)] == ["", ""]
    assert "administrators" in why_refused(call, ClientRole.BATCH)


@pytest.mark.parametrize("arguments", [{}, {"id": ""}, {"flow": "f"}])
def test_cancel_needs_an_id(arguments):
    assert "needs the argument 'id'" in why_refused(Call(1, CallMethod.CANCEL, arguments), ClientRole.FRONTEND)


@pytest.mark.parametrize("method", CallMethod)
def test_unknown_arguments_and_wrong_types_are_refused_by_name(method):
    assert why_refused(Call(1, method, {"id": "x"} if method is CallMethod.CANCEL else {}), ClientRole.ADMIN) == ""
    assert "'force'" in why_refused(Call(1, method, {"force": 1}), ClientRole.ADMIN)
    assert "'flow'" in why_refused(Call(1, method, {"flow": 1}), ClientRole.ADMIN)


@pytest.mark.parametrize("method", FOR_ADMINISTRATORS)
def test_a_frontend_gets_an_error_and_nothing_happens(core, client, method):
    request = client.submit([1], LONG)
    with SyncEngineClient(core.run_dir.core_socket, name="frontend", role=ClientRole.FRONTEND) as frontend:
        frontend.wait_ready(5)
        with pytest.raises(ServerError, match="administrators"):
            frontend.call(method)
    client.wait(0.1)
    assert client.session.is_ready
    assert not request.is_terminated


def test_a_refused_call_says_what_is_wrong_with_it(client):
    with pytest.raises(ServerError, match="takes no argument 'flow'"):
        client.call(CallMethod.DRAIN, {"flow": "x"})
    with pytest.raises(ServerError, match="'flow' of ABORT must be of type str"):
        client.call(CallMethod.ABORT, {"flow": 3})
    assert client.session.is_ready


def test_the_files_of_the_tokenizer_come_in_pieces_and_no_other_file_does(core, client):
    folder = Path(client.session.welcome.tokenizer_dir)
    sizes = client.call(CallMethod.TOKENIZER)
    assert sizes == {path.name: path.stat().st_size for path in folder.iterdir()}
    for name, size in sizes.items():
        answer = client.call(CallMethod.TOKENIZER, {"file": name, "offset": size - 10})
        assert base64.b64decode(answer["data"]) == (folder / name).read_bytes()[-10:]
    (folder / "other.json").write_text("{}")
    for name in ("other.json", "../config.json"):
        with pytest.raises(ServerError, match="no such file"):
            client.call(CallMethod.TOKENIZER, {"file": name})
    with pytest.raises(ServerError, match="no byte"):
        client.call(CallMethod.TOKENIZER, {"file": "tokenizer.json", "offset": 2**63})


def test_a_core_that_still_loads_has_no_tokenizer():
    assert answer_tokenizer(Call(3, CallMethod.TOKENIZER), None) == Reply(3, error="the model is not loaded yet")


def test_a_drained_core_finishes_what_it_has_and_refuses_the_rest(core, client):
    requests = [client.submit([number], make_params(max_tokens=100)) for number in range(20)]  # eight run, twelve wait
    client.call(CallMethod.DRAIN)
    assert client.session.state is CoreState.DRAINING
    with pytest.raises(EngineUnavailableError) as caught:
        client.generate([1], make_params())
    assert caught.value.code == "draining"
    assert [len(client.collect(request).token_ids) for request in requests] == [100] * 20
    client.wait(0.3)
    assert core.process.poll() is None


def test_a_resumed_core_accepts_again_and_everybody_hears_of_it_at_once(core, client):
    other = core.connect("other")
    client.call(CallMethod.DRAIN)
    wait_until(lambda: other.wait(0.05) and other.session.state is CoreState.DRAINING)
    client.call(CallMethod.RESUME)
    assert client.session.is_ready
    wait_until(lambda: other.wait(0.05) and other.session.is_ready)
    assert len(other.generate([1], make_params()).token_ids) == 8


def test_a_client_that_comes_while_the_core_drains_is_served_after_it(core, client):
    client.call(CallMethod.DRAIN)
    with SyncEngineClient(core.run_dir.core_socket, name="late") as late:
        with contextlib.suppress(EngineUnavailableError):  # it is ready between the welcome and the first beat
            late.wait_ready(0.5)
        wait_until(lambda: late.wait(0.05) and late.session.state is CoreState.DRAINING)
        client.call(CallMethod.RESUME)
        late.wait_ready(5)
        assert len(late.generate([1], make_params()).token_ids) == 8


def test_streams_survive_a_client_that_asks_again_whether_the_core_is_ready(client):
    request = client.submit([1], make_params(max_tokens=200))
    client.call(CallMethod.DRAIN)
    with pytest.raises(EngineUnavailableError):
        client.wait_ready(0.5)
    assert len(client.collect(request).token_ids) == 200


def test_drain_and_resume_can_be_repeated(client):
    for method in (CallMethod.RESUME, CallMethod.DRAIN, CallMethod.DRAIN, CallMethod.RESUME, CallMethod.RESUME):
        client.call(method)
    assert len(client.generate([1], make_params()).token_ids) == 8


def test_a_core_that_was_told_to_stop_cannot_be_resumed(mortal_core):
    client = mortal_core.connect()
    request = client.submit([1], make_params(max_tokens=900))
    client.wait(0.1)
    mortal_core.process.send_signal(signal.SIGTERM)
    wait_until(lambda: client.wait(0.05) and not client.session.is_ready)
    with pytest.raises(ServerError, match="stopping"):
        client.call(CallMethod.RESUME)
    assert len(client.collect(request).token_ids) == 900
    assert mortal_core.process.wait(5) == 0


def test_a_drained_core_stops_when_it_is_told_to(mortal_core):
    client = mortal_core.connect()
    client.call(CallMethod.DRAIN)
    mortal_core.process.send_signal(signal.SIGTERM)
    client.wait(0.2)
    assert mortal_core.process.wait(5) == 0


def test_abort_ends_one_flow_of_all_clients(core, client):
    other = core.connect("other")
    mine = [client.submit([number], LONG, flow="job") for number in range(2)]
    kept = client.submit([9], make_params(max_tokens=100), flow="person")
    theirs = other.submit([3], LONG, flow="job")
    wait_until(lambda: other.wait(0.05) and stats(client)["num_running"] == 4)
    assert client.call(CallMethod.ABORT, {"flow": "job"}) == {"num_aborted": 3}
    reasons = [client.collect(request).finished.reason for request in mine] + [other.collect(theirs).finished.reason]
    assert reasons == [FinishReason.ABORT] * 3
    assert len(client.collect(kept).token_ids) == 100


def test_abort_without_a_flow_ends_everything_that_runs_or_waits(client):
    requests = [client.submit([number], LONG) for number in range(20)]
    wait_until(lambda: client.wait(0.05) and stats(client)["num_running"] == 8)
    assert client.call(CallMethod.ABORT) == {"num_aborted": 20}
    assert {client.collect(request).finished.reason for request in requests} == {FinishReason.ABORT}
    assert (stats(client)["num_running"], stats(client)["num_free_blocks"]) == (0, 64)
    assert client.call(CallMethod.ABORT) == {"num_aborted": 0}


def test_a_request_whose_grammar_is_being_compiled_can_be_aborted(client):
    spec = "|".join(f"{number}x{{1,9}}" for number in range(5000))
    form = StructuredOutput(GrammarKind.REGEX, spec)
    request = client.submit([1], make_params(max_tokens=2000, structured_output=form))
    client.call(CallMethod.ABORT)
    assert client.collect(request).finished.reason is FinishReason.ABORT
    time.sleep(0.3)  # the grammar comes now, for nobody
    assert len(client.generate([1], make_params()).token_ids) == 8


def pump(*clients):
    for each in clients:
        each.wait(0.05)


@pytest.mark.parametrize(("flow", "num_cancelled"), [(None, 3), ("mine", 2), ("other", 0)])
def test_cancel_ends_what_has_the_id_at_all_clients(core, client, flow, num_cancelled):
    other = core.connect("other")
    requests = [
        client.submit([1], LONG, flow="mine", external_ids=("x", "y")),
        other.submit([2], LONG, flow="mine", external_ids=("y",)),
        client.submit([3], LONG, flow="theirs", external_ids=("y", "z")),
        client.submit([4], LONG, flow="mine", external_ids=("x",)),
        client.submit([5], LONG, flow="mine"),
    ]
    wait_until(lambda: other.wait(0.05) or stats(client)["num_running"] == 5)
    arguments = {"id": "y", **({} if flow is None else {"flow": flow})}
    assert client.call(CallMethod.CANCEL, arguments) == {"num_cancelled": num_cancelled}
    wait_until(lambda: pump(other, client) or sum(request.is_terminated for request in requests) >= num_cancelled)
    assert sum(request.is_terminated for request in requests) == num_cancelled
    for request in requests:
        if request.is_terminated:
            finished = request.try_take().finished
            assert (finished.reason, finished.error_code) == (FinishReason.ABORT, CANCELLED)
    other.call(CallMethod.ABORT)
    assert client.call(CallMethod.CANCEL, {"id": "y"}) == {"num_cancelled": 0}


def test_what_came_before_its_cancellation_ends_when_it_reaches_the_core(client):
    came_at_us = time.time_ns() // 1000
    assert client.call(CallMethod.CANCEL, {"id": "late", "flow": "mine"}) == {"num_cancelled": 0}
    options = {"flow": "mine", "external_ids": ("late",)}
    grammar = make_params(max_tokens=2000, structured_output=StructuredOutput(GrammarKind.REGEX, "a+"))
    for params in (LONG, grammar):
        late = client.collect(client.submit([1], params, arrival_time_us=came_at_us, **options))
        assert (late.token_ids, late.finished.reason, late.finished.error_code) == ([], FinishReason.ABORT, CANCELLED)
    again = client.collect(client.submit([1], make_params(), **options))
    assert (len(again.token_ids), again.finished.reason) == (8, FinishReason.LENGTH)
    other = client.submit([1], make_params(), arrival_time_us=came_at_us, flow="theirs", external_ids=("late",))
    assert client.collect(other).finished.reason is FinishReason.LENGTH
    assert stats(client)["num_running"] == 0


# --- a core that another one replaces -----------------------------------------------------------------------------


@pytest.fixture
def retiring_core(tmp_path):
    """It runs two requests at once, in steps of 20 ms."""
    with core_process(tmp_path, fake_step_ms=20, max_num_seqs=2, drain_timeout=1.5) as core:
        yield core


def code_of_failure(client, request):
    with pytest.raises(EngineUnavailableError) as caught:
        client.collect(request, timeout_s=5)
    return caught.value.code


def test_a_retiring_core_finishes_what_runs_and_hands_back_the_rest(retiring_core):
    client = retiring_core.connect()
    running = [client.submit([number], make_params(max_tokens=30)) for number in (1, 2)]
    wait_until(lambda: client.wait(0.1) and stats(client)["num_running"] == 2)
    waiting = [client.submit([number], make_params(max_tokens=30)) for number in (3, 4, 5)]
    client.call(CallMethod.RETIRE)
    assert client.session.state is CoreState.RETIRING
    late = client.submit([6], make_params())
    assert [code_of_failure(client, request) for request in (*waiting, late)] == [CORE_RETIRED] * 4
    assert not any(request.is_terminated for request in running)
    assert [len(client.collect(request).token_ids) for request in running] == [30, 30]
    assert retiring_core.process.wait(5) == 0


def test_what_takes_longer_than_the_drain_ends_for_another_core(retiring_core):
    client = retiring_core.connect()
    request = client.submit([1], LONG)
    client.wait(0.1)
    client.call(CallMethod.RETIRE)
    assert code_of_failure(client, request) == CORE_RETIRED
    assert retiring_core.process.wait(5) == 0


def test_an_idle_core_that_retires_waits_until_its_clients_have_turned_away(retiring_core):
    client = retiring_core.connect()
    client.call(CallMethod.RETIRE)
    client.wait(0.5)
    assert retiring_core.process.poll() is None
    client.send(Bye("closed"))
    assert retiring_core.process.wait(1) == 0


def test_it_does_not_wait_for_ever(retiring_core):
    client = retiring_core.connect()
    client.call(CallMethod.RETIRE)
    wait_until(lambda: client.wait(0.1) and "drained" in client.session.detail)
    assert retiring_core.process.wait(5) == 0


@pytest.mark.parametrize("method", [CallMethod.DRAIN, CallMethod.RESUME, CallMethod.RETIRE])
def test_retiring_is_for_good(retiring_core, method):
    client = retiring_core.connect()
    client.submit([1], LONG)
    client.call(CallMethod.RETIRE)
    with pytest.raises(ServerError, match="the engine is stopping"):
        client.call(method)
    assert client.session.state is CoreState.RETIRING
