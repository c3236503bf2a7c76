"""One core, and peers that send junk or connect without end, while a client is served."""

import contextlib
import resource
import socket

import pytest

from engine_core.connection_guard import DESCRIPTORS_WANTED
from fast_inference.bench.process_sizes import num_descriptors, resident_bytes
from tests.factories import make_params
from tests.junk_frames import send_junk
from tests.processes import CoreProcess, core_process, stats
from tests.waiting import wait_until

PARAMS = make_params(max_tokens=50)
MIB = 2**20


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    with core_process(tmp_path_factory.mktemp("core")) as core:
        core.connect("warm-up").generate([1], PARAMS)
        yield core


def counting(client):
    """A function that waits until the core has counted so many bad messages from now on."""
    before = stats(client)["num_bad_messages"]
    return lambda num_sent: wait_until(lambda: stats(client)["num_bad_messages"] - before >= num_sent)


@contextlib.contextmanager
def many_connections(core: CoreProcess, count: int):
    connections = []
    try:
        for _ in range(count):
            connections.append(socket.socket(socket.AF_UNIX))
            connections[-1].connect(str(core.run_dir.core_socket))
        yield
    finally:
        for connection in connections:
            connection.close()


def test_ten_thousand_junk_messages_are_counted_and_change_nothing(core):
    client = core.connect()
    expected = client.generate([7], PARAMS).token_ids
    rss_before = resident_bytes(core.process.pid)
    control = client.submit([7], PARAMS)
    wait_counted = counting(client)
    wait_counted(send_junk(core.run_dir.core_socket, 1, 9_900, wait_counted, num_oversized=50, num_raw=50))
    assert client.collect(control).token_ids == client.generate([7], PARAMS).token_ids == expected
    assert core.process.poll() is None
    assert resident_bytes(core.process.pid) - rss_before < 64 * MIB


def test_junk_fills_no_log(core):
    client, lines_before = core.connect(), core.stderr_file.read_text().count("\n")
    send_junk(core.run_dir.core_socket, 2, 2_000, counting(client))
    assert core.stderr_file.read_text().count("\n") - lines_before < 20


def test_five_thousand_peers_that_say_nothing_leave_nothing(core):
    client = core.connect()
    for _ in range(10):  # the first ones grow tables that stay
        with many_connections(core, 60):
            pass
    wait_until(lambda: stats(client)["num_connections"] < 10)
    rss_before, descriptors_before = resident_bytes(core.process.pid), num_descriptors(core.process.pid)
    for _ in range(100):
        with many_connections(core, 50):
            pass
    wait_until(lambda: stats(client)["num_connections"] < 10)
    wait_until(lambda: num_descriptors(core.process.pid) <= descriptors_before)
    assert resident_bytes(core.process.pid) - rss_before < 8 * MIB


def test_a_flood_of_connections_ends_neither_the_core_nor_its_clients(core):
    client = core.connect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.prlimit(core.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS_WANTED, DESCRIPTORS_WANTED))
    control = client.submit([7], PARAMS)
    try:
        with many_connections(core, 4000):
            wait_until(lambda: stats(client)["num_cut_connections"] >= 3900)
            assert len(client.collect(control).token_ids) == 50
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert core.process.poll() is None
    wait_until(lambda: stats(client)["num_connections"] < 10)
    assert len(core.connect("later").generate([1], PARAMS).token_ids) == 50
