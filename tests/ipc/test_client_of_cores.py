"""A client of two cores."""

import asyncio
import signal
from contextlib import ExitStack

import pytest

from ipc.client import EngineClient
from ipc.core_directory import CoreDirectory, write_cores
from ipc.endpoints import RemoteCore, RunDir
from ipc.errors import ConfigError, EngineUnavailableError, QueueFullError
from ipc.messages import CallMethod, ClientMetrics, ClientRole, CoreState
from tests.factories import make_params
from tests.processes import core_process

PARAMS = make_params(max_tokens=100)
PROMPTS = [[n, n + 1] for n in range(12)]


class Cores:
    """Two processes, and the file that lists them."""

    def __init__(self, folder, exits, **settings):
        self.run_dir = RunDir(folder / "s")
        folders = [self.run_dir.of_core(index).path for index in range(2)]
        self.processes = [exits.enter_context(core_process(path, fake_step_ms=2, **settings)) for path in folders]
        self.list("0", "1")

    def list(self, *names):
        """Have the client find these."""
        write_cores(self.run_dir, {name: self.processes[int(name)].run_dir.core_socket for name in names})

    def talk(self, conversation, **settings):
        """Run `conversation(client)` with a client of all that are listed, once all are ready."""

        async def run():
            directory = CoreDirectory(self.run_dir)
            client = EngineClient(directory, name="test", role=ClientRole.FRONTEND, **settings)
            await client.start()
            try:
                await until(lambda: all(core.is_ready for core in client.cores))
                return await conversation(client)
            finally:
                await client.close()

        return asyncio.run(run())


@pytest.fixture
def cores(tmp_path):
    with ExitStack() as exits:
        yield Cores(tmp_path, exits)


@pytest.fixture
def small_cores(tmp_path):
    """Two cores that have room for one request that runs and one that waits."""
    with ExitStack() as exits:
        yield Cores(tmp_path, exits, max_num_seqs=1, max_queued_requests=1)


class Fixed:
    """A policy that sends all to one core, while it is there."""

    def __init__(self, name):
        self.name = name
        self.heard = []

    def choose(self, add, cores):
        return next((index for index, core in enumerate(cores) if core.name == self.name), 0)

    def on_cores_changed(self, names):
        self.heard.append([*names])


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0.001)


async def read(stream):
    return [token_id async for output in stream for token_id in output.token_ids]


def live(client):
    return [core.num_live for core in client.cores]


def test_requests_are_spread(cores):
    async def conversation(client):
        streams = [client.submit(prompt, PARAMS) for prompt in PROMPTS]
        spread = live(client)
        return spread, await asyncio.gather(*map(read, streams))

    spread, texts = cores.talk(conversation)
    assert spread == [6, 6]
    assert [len(text) for text in texts] == [100] * 12


def test_a_policy_chooses(cores):
    policy = Fixed("1")

    async def conversation(client):
        streams = [client.submit(prompt, PARAMS) for prompt in PROMPTS]
        assert live(client) == [0, 12]
        await asyncio.gather(*map(read, streams))

    cores.talk(conversation, placement=policy)
    assert policy.heard[-1] == ["0", "1"]


def test_what_one_core_has_no_room_for_goes_to_the_other_one(small_cores):
    async def conversation(client):
        streams = [client.submit(prompt, PARAMS) for prompt in PROMPTS[:4]]
        texts = await asyncio.gather(*map(read, streams))
        return [len(text) for text in texts], [stream.core_names for stream in streams]

    lengths, names = small_cores.talk(conversation, placement=Fixed("0"))
    assert lengths == [100] * 4
    assert sorted(names) == [["0"], ["0"], ["0", "1"], ["0", "1"]]


def test_what_no_core_has_room_for_is_refused(small_cores):
    async def conversation(client):
        streams = [client.submit(prompt, PARAMS) for prompt in PROMPTS]
        return await asyncio.gather(*map(read, streams), return_exceptions=True)

    results = small_cores.talk(conversation, placement=Fixed("0"))
    refused = [result for result in results if isinstance(result, BaseException)]
    assert len(refused) == 8
    assert {type(error) for error in refused} == {QueueFullError}


def test_the_streams_of_a_dead_core_go_on_with_the_other_one_at_once(cores):
    async def conversation(client):
        whole = await asyncio.gather(*(read(client.submit(prompt, PARAMS)) for prompt in PROMPTS))
        streams = [client.submit(prompt, PARAMS) for prompt in PROMPTS]
        firsts = [(await anext(stream)).token_ids for stream in streams]
        cores.processes[0].kill()
        rests = await asyncio.gather(*map(read, streams))
        assert [first + rest for first, rest in zip(firsts, rests, strict=True)] == whole
        assert sorted(stream.core_names for stream in streams) == [["0", "1"]] * 6 + [["1"]] * 6

    cores.talk(conversation)


def test_a_core_that_comes_back_gets_requests_again(cores):
    async def conversation(client):
        cores.processes[0].kill()
        await until(lambda: not client.cores[0].is_ready)
        first = [client.submit(prompt, PARAMS) for prompt in PROMPTS]
        assert live(client) == [0, 12]
        cores.processes[0].start()
        await until(lambda: client.cores[0].is_ready)
        second = [client.submit(prompt, PARAMS) for prompt in PROMPTS]
        assert live(client)[0] >= 6
        await asyncio.gather(*map(read, first + second))

    cores.talk(conversation)


def test_without_any_core_requests_wait(cores):
    async def conversation(client):
        streams = [client.submit(prompt, PARAMS) for prompt in PROMPTS]
        for process in cores.processes:
            process.kill()
        await until(lambda: not client.is_ready)
        cores.processes[1].start()
        return await asyncio.gather(*map(read, streams))

    assert [len(text) for text in cores.talk(conversation)] == [100] * 12


def test_a_core_that_is_not_listed_any_more_finishes_what_it_runs(cores):
    async def conversation(client):
        streams = [client.submit(prompt, make_params(max_tokens=1000)) for prompt in PROMPTS]
        cores.list("1")
        await until(lambda: [core.name for core in client.cores] == ["1"])
        assert len(client._cores.channels) == 2
        assert client._cores.channels[1].num_live == 6
        await asyncio.gather(*map(read, streams))
        assert [stream.num_cores for stream in streams] == [1] * 12
        await until(lambda: len(client._cores.channels) == 1)

    cores.talk(conversation)


def test_a_core_that_is_listed_later_is_found(cores):
    cores.list("0")

    async def conversation(client):
        cores.list("0", "1")
        await until(lambda: [core.is_ready for core in client.cores] == [True, True])

    cores.talk(conversation)


def test_an_abort_reaches_the_core_that_has_the_request(cores):
    async def conversation(client):
        streams = [client.submit(prompt, make_params(max_tokens=2000)) for prompt in PROMPTS]
        for stream in streams:
            await anext(stream)
            stream.abort("enough")
        await until(lambda: client.load.num_running == 0)
        assert live(client) == [0, 0]

    cores.talk(conversation)


def test_a_cancellation_counts_what_all_cores_had(cores):
    async def conversation(client):
        params = make_params(max_tokens=2000)
        streams = [client.submit(prompt, params, external_ids=("x",)) for prompt in PROMPTS]
        for stream in streams:
            await anext(stream)
        assert await client.call(CallMethod.CANCEL, {"id": "x"}) == {"num_cancelled": 12}
        await asyncio.gather(*map(read, streams))

    cores.talk(conversation)


def test_capacity_and_load_are_sums(cores):
    async def conversation(client):
        assert client.capacity.max_num_seqs == 2 * client.welcome.max_num_seqs
        streams = [client.submit(prompt, make_params(max_tokens=2000)) for prompt in PROMPTS]
        await until(lambda: client.load.num_running == 12)
        assert client.load.num_blocks == 2 * client.welcome.num_blocks
        for stream in streams:
            stream.abort()

    cores.talk(conversation)


def test_metrics_are_those_of_each_core(cores):
    async def conversation(client):
        return await client.metrics(5.0)

    values = cores.talk(conversation)
    assert sorted(values) == ["0", "1"]
    assert all(of_core["kv_blocks"] > 0 for of_core in values.values())


def test_metrics_of_a_core_that_is_silent_are_not_waited_for(cores, monkeypatch, caplog):
    monkeypatch.setattr("ipc.core_channel.SILENT_AFTER_S", 1.0)

    async def conversation(client):
        cores.processes[0].process.send_signal(signal.SIGSTOP)
        try:
            await until(lambda: client.cores[0].beat_age_s > 1)
            return await client.metrics(60.0)
        finally:
            cores.processes[0].process.send_signal(signal.SIGCONT)

    assert list(cores.talk(conversation)) == ["1"]
    assert "METRICS" not in caplog.text


def test_a_call_is_answered_although_one_core_hangs(cores):
    async def conversation(client):
        cores.processes[0].process.send_signal(signal.SIGSTOP)
        try:
            assert await client.call(CallMethod.CANCEL, {"id": "x"}, timeout_s=0.3) == {"num_cancelled": 0}
        finally:
            cores.processes[0].process.send_signal(signal.SIGCONT)

    cores.talk(conversation)


def test_closing_ends_the_streams_of_all_cores(cores):
    async def conversation(client):
        streams = [client.submit(prompt, PARAMS) for prompt in PROMPTS]
        await client.close()
        for stream in streams:
            with pytest.raises(EngineUnavailableError, match="closed"):
                await read(stream)

    cores.talk(conversation)


@pytest.mark.timeout(20)
def test_no_core_is_connected_to_while_the_client_closes(cores, monkeypatch):
    """A channel that was opened then kept `close` waiting for ever."""
    monkeypatch.setattr("ipc.core_set._LOOK_INTERVAL_S", 0)
    for process in cores.processes:
        process.kill()

    async def run():
        client = EngineClient(CoreDirectory(cores.run_dir), name="test", role=ClientRole.FRONTEND)
        await client.start()
        await asyncio.sleep(0.01)
        await client.close()
        assert client.cores == []

    asyncio.run(run())


@pytest.mark.timeout(20)
def test_a_core_that_retires_while_the_client_closes_gets_no_new_link(cores):
    """Its socket kept `close` waiting for ever."""

    async def conversation(client):
        stream = client.submit([1], make_params(max_tokens=10_000))
        await anext(stream)
        admin = cores.processes[0].connect()
        admin.call(CallMethod.RETIRE)
        while admin.session.state is not CoreState.RETIRING:
            admin.wait(0.1)
        await client.close()  # with what the core said still in the socket
        assert client.cores == []

    cores.talk(conversation, placement=Fixed("0"))


def test_a_core_whose_keys_are_missing_is_left_out_and_the_others_are_followed(cores, tmp_path, caplog):
    async def conversation(client):
        sockets = [process.run_dir.core_socket for process in cores.processes]
        damaged = RemoteCore("tcp://127.0.0.1:1", tmp_path / "nothing")
        write_cores(cores.run_dir, {"0": sockets[0], "a": damaged})
        await until(lambda: "cannot connect to core a" in caplog.text)
        assert [core.name for core in client.cores] == ["0"]
        write_cores(cores.run_dir, {"0": sockets[0], "a": damaged, "1": sockets[1]})
        await until(lambda: [core.name for core in client.cores if core.is_ready] == ["0", "1"])

    cores.talk(conversation)
    assert caplog.text.count("cannot connect") == 1


def test_a_client_of_cores_of_which_none_can_be_used_does_not_start(tmp_path):
    run_dir = RunDir(tmp_path)
    write_cores(run_dir, {"a": RemoteCore("tcp://127.0.0.1:1", tmp_path / "nothing")})

    async def run():
        client = EngineClient(CoreDirectory(run_dir), name="test", role=ClientRole.FRONTEND)
        with pytest.raises(ConfigError, match="cannot read the key"):
            await client.start()
        await client.close()

    asyncio.run(run())


class Reporter:
    """Counts what was sent."""

    num_reported = 0

    def report(self):
        return ClientMetrics({})

    def on_reported(self):
        self.num_reported += 1


def test_what_is_counted_is_not_told_to_a_core_that_is_not_listed_any_more(cores):
    """Nobody would ask it."""

    async def conversation(client):
        stream = client.submit([1], make_params(max_tokens=10_000))
        await anext(stream)
        cores.processes[1].kill()
        cores.list("1")
        await until(lambda: [core.name for core in client.cores] == ["1"] and not client.is_ready)
        client.reporter = Reporter()
        with pytest.raises(EngineUnavailableError):
            await client.metrics(0.1)
        assert client.reporter.num_reported == 0

    cores.talk(conversation, placement=Fixed("0"))
