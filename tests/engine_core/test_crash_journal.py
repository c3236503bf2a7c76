import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_core.crash_journal import Acquittal, CrashId, CrashJournal, RunningRequest, Suspect, read_journal

ROOT = Path(__file__).parents[2]
RUNNING = (RunningRequest(b"a" * 16, 3), RunningRequest(b"b" * 16, 0))
CRASHES = frozenset([CrashId(12, 34), CrashId(56, 78)])
SUSPECTS = (Suspect(b"a" * 16, CRASHES, 1234.5, 9),)
ACQUITTALS = (Acquittal(b"b" * 16, CRASHES, 1234.5),)


def test_what_was_written_last_is_read(tmp_path):
    journal = CrashJournal(tmp_path / "journal")
    journal.write(7, (), ())
    journal.write(8, RUNNING, SUSPECTS, ACQUITTALS)
    journal.set_step(12)
    record, step = read_journal(tmp_path / "journal")
    assert (record.running, record.suspects, record.acquittals) == (RUNNING, SUSPECTS, ACQUITTALS)
    assert (record.step, step) == (8, 12)
    assert (record.pid, record.is_alive) == (os.getpid(), True)


def test_it_outlives_a_process_that_is_killed(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from engine_core.crash_journal import *;"
        "journal = CrashJournal(Path(sys.argv[1])); journal.write(1, (RunningRequest(b'x', 5),), ());"
        "journal.set_step(3); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "journal")], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    record, step = read_journal(tmp_path / "journal")
    assert (record.running, step, record.is_alive) == ((RunningRequest(b"x", 5),), 3, False)


def test_its_room_on_the_disk_is_taken_at_once(tmp_path):
    CrashJournal(tmp_path / "journal")
    found = (tmp_path / "journal").stat()
    assert found.st_blocks * 512 >= found.st_size > 2**20


def test_a_new_journal_begins_empty(tmp_path):
    CrashJournal(tmp_path / "journal").write(1, RUNNING, SUSPECTS)
    CrashJournal(tmp_path / "journal")
    record, step = read_journal(tmp_path / "journal")
    assert (record.running, record.suspects, step) == ((), (), 0)


def test_what_is_known_is_in_a_new_journal_when_it_takes_the_place_of_another(tmp_path):
    CrashJournal(tmp_path / "journal", SUSPECTS, ACQUITTALS)
    record, _ = read_journal(tmp_path / "journal")
    assert (record.suspects, record.acquittals) == (SUSPECTS, ACQUITTALS)
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]


def test_too_many_requests_name_nobody(tmp_path):
    journal = CrashJournal(tmp_path / "journal")
    journal.write(4, RUNNING * 20_000, ())
    record, step = read_journal(tmp_path / "journal")
    assert (record.running, step) == ((), 4)


def test_only_its_owner_may_read_it(tmp_path):
    CrashJournal(tmp_path / "journal")
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600


def test_without_a_file_there_is_no_record(tmp_path):
    assert read_journal(tmp_path / "missing") is None


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("journal") / "journal"
    CrashJournal(path).write(8, RUNNING, SUSPECTS, ACQUITTALS)
    return path


@given(position=st.integers(0, 4096), junk=st.binary(min_size=1, max_size=64), size=st.integers(0, 2**20))
def test_whatever_is_in_the_file_is_a_record_or_none(written, position, junk, size):
    content = bytearray(written.read_bytes())
    content[position : position + len(junk)] = junk
    damaged = written.with_name("damaged")
    damaged.write_bytes(content[:size])
    found = read_journal(damaged)
    assert found is None or isinstance(found[1], int)
