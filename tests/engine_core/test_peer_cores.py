"""Whether the death of another core is seen at the first look after it; with real processes."""

import os
import signal
import subprocess
import sys

import pytest

from engine_core.peer_cores import PeerCores, announce_journal
from ipc.endpoints import RunDir
from tests.engine_core.test_crash_journal import ROOT
from tests.waiting import wait_until

PROGRAM = """
import sys
from pathlib import Path
from engine_core.crash_journal import CrashJournal
from engine_core.peer_cores import announce_journal
from ipc.endpoints import RunDir
journal = CrashJournal(Path(sys.argv[1]))
announce_journal(RunDir(Path(sys.argv[2])))
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def peer(tmp_path):
    """The run dir of another core, and a function that starts a process that is it."""
    run_dir, processes = RunDir(tmp_path / "1"), []
    run_dir.path.mkdir()

    def start(slot=0):
        command = [sys.executable, "-c", PROGRAM, str(run_dir.slot_journal_file(slot)), str(tmp_path)]
        processes.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert processes[-1].stdout.readline() == b"started\n"
        return processes[-1]

    yield run_dir, start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_death_is_news_once_even_before_it_is_reaped(peer):
    run_dir, start = peer
    peers = PeerCores(RunDir(run_dir.path.parent), [run_dir])
    assert not peers.has_news()
    process = start()
    assert peers.has_news()
    assert not peers.has_news()
    os.kill(process.pid, signal.SIGKILL)
    wait_until(peers.has_news)
    assert process.returncode is None
    assert not peers.has_news()
    peers.close()


def test_a_core_that_died_between_two_looks_is_news(peer):
    run_dir, start = peer
    peers = PeerCores(RunDir(run_dir.path.parent), [run_dir])
    process = start(slot=1)
    process.kill()
    process.wait()
    assert peers.has_news()
    peers.close()


def test_a_core_that_another_one_follows_at_once_in_the_same_file_is_watched_too(peer):
    run_dir, start = peer
    peers = PeerCores(RunDir(run_dir.path.parent), [run_dir])
    for _ in range(3):
        process = start()
        assert peers.has_news()
        run_dir.slot_journal_file(0).unlink()  # as a reload does: the next file may have its inode
        process.kill()
        wait_until(peers.has_news)
    peers.close()


def test_a_look_at_many_cores_reads_nothing_while_nothing_has_changed(tmp_path, monkeypatch):
    others = [RunDir(tmp_path / str(index)) for index in range(64)]
    announce_journal(RunDir(tmp_path))
    peers = PeerCores(RunDir(tmp_path), others)
    peers.has_news()
    read = []
    monkeypatch.setattr("engine_core.peer_cores.read_journal", read.append)
    assert not peers.has_news()
    assert not read
    announce_journal(RunDir(tmp_path))
    peers.has_news()
    assert len(read) == 128
    peers.close()


def test_a_core_that_never_ran_is_no_news(tmp_path):
    peers = PeerCores(RunDir(tmp_path), [RunDir(tmp_path / "missing")])
    assert not peers.has_news()
    peers.close()
