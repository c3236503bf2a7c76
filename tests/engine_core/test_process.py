import os
import signal
import subprocess
import sys
import time
from array import array

import pytest
import zmq

from ipc import codec
from ipc.endpoints import connect_to_core
from ipc.errors import (
    EngineUnavailableError,
    InvalidRequestError,
    QueueFullError,
    RequestFailedError,
    ServerError,
)
from ipc.messages import (
    PROTOCOL_VERSION,
    Abort,
    Add,
    Bye,
    CallMethod,
    ClientRole,
    CoreBeat,
    FinishReason,
    Hello,
    Live,
    RequestId,
    Task,
)
from ipc.process import pid_namespace
from ipc.sync_client import SyncEngineClient
from tests.factories import make_params
from tests.junk_frames import hello_of_version
from tests.processes import core_process, stats
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def shared_core(tmp_path_factory):
    with core_process(tmp_path_factory.mktemp("core")) as core:
        yield core


ENDLESS = make_params(max_tokens=2000)


@pytest.fixture
def core(tmp_path):
    with core_process(tmp_path, fake_step_ms=1) as core:
        yield core


def test_it_generates(core):
    output = core.connect().generate(list(b"hello"), make_params(max_tokens=20))
    assert (len(output.token_ids), output.finished.reason) == (20, FinishReason.LENGTH)


def test_an_embedding_has_length_one(core):
    client = core.connect()
    output = client.collect(client.submit([1, 2, 3], make_params(max_tokens=1), task=Task.EMBED))
    assert sum(value * value for value in output.embedding) == pytest.approx(1)


def test_a_second_core_on_the_same_run_dir_is_refused(core):
    client = core.connect()
    command = [sys.executable, "-m", "engine_core", "--config", str(core.run_dir.config_file)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (second.returncode, second.stderr.count("\n")) == (1, 1)
    assert "another core runs" in second.stderr
    assert client.generate([1], make_params()).finished is not None


def test_wrong_settings_are_one_line_and_exit_1(tmp_path):
    with core_process(tmp_path, fake_faults="explode@1") as core:
        assert core.process.wait(20) == 1
        errors = core.stderr_file.read_text().splitlines()
    assert errors == [
        "error: --fake-faults: 'explode@1' is not one of die@STEP, hang@STEP, raise@STEP, broken@STEP, oom@STEP, "
        "nan@N, bad@N, poison@N"
    ]


def test_an_abort_frees_the_blocks_within_a_step(core):
    client = core.connect()
    request = client.submit([1] * 100, ENDLESS)
    wait_until(lambda: client.wait(0.1) and stats(client)["num_running"] == 1)
    client.abort(request.request_id)
    assert stats(client)["num_running"] == 0
    assert stats(client)["num_free_blocks"] == 64


def test_a_killed_client_leaves_nothing_behind(core):
    observer = core.connect("observer")
    script = (
        "import sys; from pathlib import Path; from ipc.sync_client import SyncEngineClient;"
        "from tests.factories import make_params; c = SyncEngineClient(Path(sys.argv[1]), name='victim');"
        "c.wait_ready(20); c.submit([1] * 100, make_params(max_tokens=2000)); c.wait(1);"
        "print('up', flush=True); input()"
    )
    command = [sys.executable, "-c", script, str(core.run_dir.core_socket)]
    victim = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    victim.stdout.readline()
    assert stats(observer)["num_running"] == 1
    victim.kill()
    victim.communicate()
    wait_until(lambda: stats(observer)["num_free_blocks"] == 64, timeout_s=2)


def test_a_request_that_can_never_run_is_refused_with_its_field(core):
    with pytest.raises(InvalidRequestError) as caught:
        core.connect().generate([1, 2, 999_999], make_params())
    assert caught.value.param == "prompt"


def test_a_full_queue_refuses_without_waiting_for_the_step(tmp_path):
    with core_process(tmp_path, fake_step_ms=1000, max_num_seqs=1, max_queued_requests=3) as core:
        client = core.connect()
        client.submit([1], ENDLESS)
        client.wait(0.5)  # it runs now, in steps of a second
        for _ in range(3):
            client.submit([2], ENDLESS)
        started_at = time.monotonic()
        with pytest.raises(QueueFullError):
            client.generate([3], ENDLESS)
        assert time.monotonic() - started_at < 0.5


def test_a_reader_that_pauses_loses_nothing(core):
    client = core.connect()
    request = client.submit([5], ENDLESS)
    time.sleep(3)
    assert client.collect(request).token_ids == client.generate([5], ENDLESS).token_ids


def test_junk_is_dropped_and_counted(core):
    client = core.connect()
    with zmq.Context() as context:
        socket = connect_to_core(context, core.run_dir.core_socket)
        for number in range(200):
            socket.send_multipart([os.urandom(number % 50), b"\xdf" * number])
        socket.close(linger=1000)
    wait_until(lambda: stats(client)["num_bad_messages"] == 201)  # its end without a BYE is one too
    assert len(client.generate([1], make_params()).token_ids) == 8


@pytest.mark.parametrize(
    "message",
    [
        Add(RequestId(1), array("i"), make_params()),
        Add(RequestId(-1), array("i", [1]), make_params()),
        Add(RequestId(1), array("i", [1]), make_params(max_tokens=-5)),
        Add(RequestId(1), array("i", [1, 2]), make_params(), num_resumed_tokens=2),
        Add(RequestId(1), array("i", [-1]), make_params()),
        Hello("x", ClientRole.FRONTEND, -1, 0, pid_namespace()),
        Hello("x", ClientRole.FRONTEND, 2**40, 0, pid_namespace()),
        Abort(array("Q", [0, 99, 2**64 - 1])),
        Live(1, array("Q", [0, 99, 2**64 - 1])),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_well_formed_message_with_senseless_values_disturbs_nobody(shared_core, message):
    client = shared_core.connect()
    before = shared_core.process.pid
    client.send(message)
    with SyncEngineClient(shared_core.run_dir.core_socket, name="other") as other:
        other.wait_ready(5)
        assert len(other.generate([1], make_params()).token_ids) == 8
    assert (shared_core.process.pid, shared_core.process.poll()) == (before, None)


def test_every_refusal_arrives_although_the_client_reads_late(tmp_path):
    with core_process(tmp_path, max_queued_requests=1, fake_step_ms=50, max_num_seqs=1) as core:
        client = core.connect()
        requests = []
        while len(requests) < 3000:
            try:
                requests.append(client.submit([1], ENDLESS))
            except EngineUnavailableError:
                time.sleep(0.01)  # its own queue is full
        wait_until(lambda: client.wait(0.1) and sum(request.is_terminated for request in requests) >= 2998)


def test_a_request_that_its_client_forgot_is_ended(core):
    client = core.connect()
    client.submit([1], make_params(max_tokens=4000))
    client.wait(0.2)
    client.session.requests.clear()  # as if its ABORT had been lost
    wait_until(lambda: client.wait(0.1) and stats(client)["num_running"] == 0)


def test_only_an_administrator_may_empty_the_prefix_cache(core):
    core.connect()
    with SyncEngineClient(core.run_dir.core_socket, name="frontend", role=ClientRole.FRONTEND) as client:
        client.wait_ready(5)
        with pytest.raises(ServerError, match="administrators"):
            client.call(CallMethod.RESET_PREFIX_CACHE)


def test_a_core_whose_every_step_fails_gives_up(tmp_path):
    with core_process(tmp_path, fake_faults="broken@3") as core:
        client = core.connect()
        codes = []
        for _ in range(12):
            with pytest.raises((RequestFailedError, EngineUnavailableError)) as caught:
                client.generate([1], make_params(), timeout_s=2)
            codes.append(caught.value.code)
            if caught.value.code != "step_failed":
                break
        assert codes.count("step_failed") == 10
        assert core.process.wait(5) == 70


def test_a_core_that_cannot_keep_a_journal_says_so_and_serves(tmp_path):
    (tmp_path / ".fast-inference").touch()
    (tmp_path / "core-0.journal").mkdir()
    with core_process(tmp_path) as core:
        assert len(core.connect().generate([1, 2], make_params()).token_ids) == make_params().max_tokens
        assert "cannot keep a journal" in core.stderr_file.read_text()


def test_when_memory_runs_out_in_a_step_exactly_one_request_ends(tmp_path):
    with core_process(tmp_path, fake_faults="oom@20", fake_step_ms=1) as core:
        client = core.connect()
        requests = [client.submit([number], make_params(max_tokens=60)) for number in range(8)]
        codes = []
        for request in requests:
            try:
                assert len(client.collect(request).token_ids) == 60
            except RequestFailedError as error:
                codes.append(error.code)
        assert codes == ["out_of_memory"]
        assert core.process.poll() is None
        assert (stats(client)["num_running"], stats(client)["num_free_blocks"]) == (0, 64)


def test_another_protocol_version_is_told_to_leave(core):
    core.connect()
    with zmq.Context() as context:
        socket = connect_to_core(context, core.run_dir.core_socket)
        socket.send(hello_of_version(PROTOCOL_VERSION + 1))
        assert socket.poll(5000)
        answer = codec.decode_core_message(socket.recv())
        socket.close()
    assert isinstance(answer, Bye)
    assert answer.reason == "protocol_mismatch"


def test_a_client_that_never_said_hello_is_told_to(core):
    client = core.connect()
    with zmq.Context() as context:
        socket = connect_to_core(context, core.run_dir.core_socket)
        add = Add(RequestId(1), array("i", [1]), make_params())
        socket.send(codec.encode(add, client.session.epoch))
        assert socket.poll(5000)
        answer = codec.decode_core_message(socket.recv())
        socket.close()
    assert answer == Bye("unknown_client", "say HELLO first")


def test_sigterm_finishes_what_runs_and_refuses_what_comes(core):
    client = core.connect()
    request = client.submit([1], make_params(max_tokens=300))
    client.wait(0.2)
    core.process.send_signal(signal.SIGTERM)
    wait_until(lambda: client.wait(0.1) and not client.session.is_ready)
    refused = client.submit([2], make_params())
    assert len(client.collect(request).token_ids) == 300
    with pytest.raises(EngineUnavailableError):
        client.collect(refused)
    assert core.process.wait(5) == 0


def test_a_drain_that_takes_too_long_ends_in_errors(tmp_path):
    with core_process(tmp_path, fake_step_ms=50, drain_timeout=0.3) as core:
        client = core.connect()
        request = client.submit([1], ENDLESS)
        client.wait(0.2)
        core.process.send_signal(signal.SIGTERM)
        with pytest.raises(EngineUnavailableError) as caught:
            client.collect(request)
        assert caught.value.code == "draining"
        assert core.process.wait(5) == 0


def test_the_prefix_cache_can_be_reset(core):
    client = core.connect()
    client.generate([1] * 100, make_params())
    assert client.call(CallMethod.RESET_PREFIX_CACHE)["num_blocks"] > 0
    assert client.generate([1] * 100, make_params()).finished.num_cached_tokens == 0


SIGNAL_THAT_WAKES_NOBODY = """
import os, signal, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()  # this thread gets it, and not the one that waits
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
from engine_core.__main__ import main
os._exit(main())
"""


def test_an_idle_core_sees_a_signal_that_did_not_end_its_wait(tmp_path):
    """As one that comes just before the wait."""
    with core_process(tmp_path, command=("-c", SIGNAL_THAT_WAKES_NOBODY)) as core:
        core.connect()
        core.process.terminate()
        assert core.process.wait(10) == 0


def test_an_idle_core_uses_less_than_one_percent_of_a_cpu(core):
    core.connect()
    time.sleep(0.5)
    before = cpu_seconds(core.process.pid)
    time.sleep(3)
    assert cpu_seconds(core.process.pid) - before < 0.03


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_prefill_that_takes_longer_than_the_hang_timeout_is_allowed_to(tmp_path):
    """Two seconds for a prompt in one step, of which the core has seen shorter ones before."""
    settings = {"hang_timeout": 1, "fake_token_us": 2000, "step_time_target": 10}
    with core_process(tmp_path, **settings) as core:
        client = core.connect()
        client.generate([1] * 20, make_params())
        request = client.submit([2] * 1000, make_params(max_tokens=1))
        beats = []
        while not request.is_terminated:
            beats += [message for message in client.wait(0.1) if isinstance(message, CoreBeat)]
        assert max(beat.step_age_ms for beat in beats) > 1000
        assert all(beat.step_age_ms < beat.step_allowance_ms for beat in beats)
