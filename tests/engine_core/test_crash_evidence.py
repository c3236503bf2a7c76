import time

import pytest

from engine_core import crash_journal
from engine_core.crash_evidence import WINDOW_S, CrashEvidence
from engine_core.crash_journal import Acquittal, CrashId, CrashJournal, RunningRequest, Suspect

NOW = time.time()
EARLIER = frozenset([CrashId(1, 1)])


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """Writes the journal of a core, which has died unless it is said to live."""
    alive = set()
    monkeypatch.setattr(crash_journal.CrashRecord, "is_alive", property(lambda record: record.pid in alive))

    def write(running=(), suspects=(), acquittals=(), written_at=1, died_at=1, pid=100, is_alive=False):
        path = tmp_path / str(pid)
        journal = CrashJournal(path)
        journal._pid = pid
        journal.write(written_at, running, suspects, acquittals)
        journal.set_step(died_at)
        if is_alive:
            alive.add(pid)
        return path

    return write


def suspects_after(*journals, max_tokens_per_step=1, known=None):
    return (known or CrashEvidence()).with_journals(journals, max_tokens_per_step, NOW).suspects


@pytest.mark.parametrize(("died_at", "num_new_tokens"), [(10, 3), (11, 2), (13, 4)])
def test_what_was_running_is_suspected_up_to_where_it_can_have_come(journal, died_at, num_new_tokens):
    path = journal([RunningRequest(b"a", 5)], written_at=10, died_at=died_at)
    [suspect] = suspects_after(path, max_tokens_per_step=3).values()
    assert (suspect.digest, suspect.num_crashes, suspect.crashed_at_s) == (b"a", 1, NOW)
    assert suspect.num_output_tokens == 5 + num_new_tokens


def test_a_suspect_that_was_running_again_has_one_crash_more(journal):
    before = Suspect(b"a", EARLIER, NOW - 100, 50)
    [suspect] = suspects_after(journal([RunningRequest(b"a", 0)], [before])).values()
    assert (suspect.num_crashes, suspect.crashed_at_s, suspect.num_output_tokens) == (2, NOW, 1)


def test_a_suspect_that_did_not_run_stays_one(journal):
    before = Suspect(b"a", EARLIER, NOW - 100, 50)
    assert suspects_after(journal([], [before])) == {b"a": before}


def test_a_crash_of_long_ago_is_forgotten(journal):
    before = Suspect(b"a", EARLIER, NOW - WINDOW_S - 1, 50)
    assert suspects_after(journal([], [before])) == {}
    [suspect] = suspects_after(journal([RunningRequest(b"a", 0)], [before])).values()
    assert suspect.num_crashes == 1


def test_an_older_journal_does_not_hide_a_later_crash(journal):
    before = Suspect(b"a", EARLIER, NOW - 100, 50)
    latest = journal([RunningRequest(b"a", 0)], [before], pid=101)
    older = journal([], [before], pid=102)
    for journals in ((latest, older), (older, latest)):
        assert suspects_after(*journals)[b"a"].num_crashes == 2


def test_requests_with_the_same_content_count_once(journal):
    running = [RunningRequest(b"a", 5), RunningRequest(b"a", 9), RunningRequest(b"a", 2)]
    [suspect] = suspects_after(journal(running)).values()
    assert (suspect.num_crashes, suspect.num_output_tokens) == (1, 10)


def test_what_a_living_core_runs_is_no_evidence_but_what_it_knows_is(journal):
    known = Suspect(b"b", EARLIER, NOW - 100, 50)
    assert suspects_after(journal([RunningRequest(b"a", 5)], [known], is_alive=True)) == {b"b": known}


def test_crashes_of_two_cores_add_up(journal):
    """Whatever the order in which they died, and though the second one lived when the first one died."""
    paths = [
        journal([RunningRequest(b"a", 5), RunningRequest(name, 1)], pid=pid) for pid, name in ((7, b"x"), (8, b"y"))
    ]
    counts = {digest: suspect.num_crashes for digest, suspect in suspects_after(*paths).items()}
    assert counts == {b"a": 2, b"x": 1, b"y": 1}


def test_a_crash_counts_once_however_often_it_is_read(journal):
    path = journal([RunningRequest(b"a", 5)])
    known = CrashEvidence().with_journals([path], 1, NOW - 50)
    assert known.with_journals([path, path], 1, NOW) == known


def test_who_is_acquitted_by_one_core_is_not_suspected_of_that_crash_by_another(journal):
    suspect = Suspect(b"a", EARLIER, NOW - 100, 50)
    knows = journal([], [suspect], pid=101, is_alive=True)
    acquits = journal([], [], [Acquittal(b"a", EARLIER, NOW - 50)], pid=102, is_alive=True)
    assert suspects_after(knows, acquits) == {}
    dead = journal([RunningRequest(b"a", 3)], pid=103)
    assert suspects_after(knows, acquits, dead)[b"a"].num_crashes == 1


def test_a_damaged_journal_is_no_evidence(tmp_path):
    (tmp_path / "journal").write_text("junk")
    assert suspects_after(tmp_path / "journal", tmp_path / "missing") == {}
