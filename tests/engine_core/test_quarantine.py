import time
from dataclasses import replace
from itertools import takewhile

import pytest

from engine_core import crash_journal
from engine_core.crash_evidence import WINDOW_S, CrashEvidence
from engine_core.crash_journal import CrashId, CrashJournal, Suspect
from engine_core.outputs import ModelRunnerOutput
from engine_core.quarantine import MAX_CRASHES, MAX_TOKENS_ALONE, Quarantine
from engine_core.request_intake import content_digest
from ipc.errors import RequestQuarantinedError
from ipc.messages import FinishReason, RequestId
from ipc.request_options import new_add
from tests.factories import CoreHarness, make_fake_runner, make_params

NOW = time.time()


def digest_of(prompt, **params):
    return content_digest(new_add(RequestId(1), prompt, make_params(**params)))


def evidence_against(*prompts, num_crashes=1, num_output_tokens=2, crashed_at_s=NOW, **params):
    digests = [digest_of(prompt, **params) for prompt in prompts]
    crashes = frozenset(CrashId(1, index) for index in range(num_crashes))
    return CrashEvidence({digest: Suspect(digest, crashes, crashed_at_s, num_output_tokens) for digest in digests})


def test_requests_are_the_same_whatever_the_seed_and_what_was_emitted():
    add = new_add(RequestId(1), [1, 2, 3], make_params(seed=1))
    resumed = replace(new_add(RequestId(2), [1, 2, 3, 4, 5], make_params(seed=2)), num_resumed_tokens=2)
    assert content_digest(add) == content_digest(resumed)
    assert content_digest(add) != digest_of([1, 2, 3], temperature=0.5)
    assert content_digest(add) != digest_of([1, 2])


def num_tokens_of(core, requests):
    return [len(core.token_ids[item]) for item in requests]


def test_suspects_run_alone_until_they_are_past_the_place_with_a_step_for_the_others_between_them(tmp_path):
    evidence = evidence_against([1], [2], [3], max_tokens=20)
    core = CoreHarness(make_fake_runner(tmp_path), quarantine=Quarantine(evidence=evidence))
    requests = [core.add([n], max_tokens=20) for n in (1, 2, 3, 4)]
    after_each_step = []
    for _ in range(9):
        core.step()
        after_each_step.append(num_tokens_of(core, requests))
    assert after_each_step == [
        [1, 0, 0, 0],
        [2, 0, 0, 0],  # as many as when the core died
        [3, 0, 0, 1],
        [3, 1, 0, 1],
        [3, 2, 0, 1],
        [4, 3, 0, 2],
        [4, 3, 1, 2],
        [4, 3, 2, 2],
        [5, 4, 3, 3],
    ]
    core.run()
    assert {core.finished[item].reason for item in requests} == {FinishReason.LENGTH}
    core.check_idle()


def test_a_suspect_with_a_long_way_to_go_runs_beside_the_others(tmp_path):
    evidence = evidence_against([1], [2], max_tokens=20, num_output_tokens=MAX_TOKENS_ALONE + 3)
    core = CoreHarness(make_fake_runner(tmp_path), quarantine=Quarantine(evidence=evidence))
    requests = [core.add([n], max_tokens=20) for n in (1, 2, 3)]
    core.step()
    core.step()
    assert num_tokens_of(core, requests) == [2, 0, 2]
    core.step()
    core.step()
    assert num_tokens_of(core, requests) == [4, 0, 3]
    core.run()
    core.check_idle()


def test_a_suspect_without_room_waits_until_others_leave(tmp_path):
    evidence = evidence_against([1], max_tokens=20)
    core = CoreHarness(make_fake_runner(tmp_path), quarantine=Quarantine(evidence=evidence), max_num_seqs=1)
    first = core.add([2], max_tokens=3)
    core.step()
    suspect = core.add([1], max_tokens=20)
    core.step()
    assert num_tokens_of(core, [first, suspect]) == [2, 0]
    core.run()
    assert core.finished[suspect].reason is FinishReason.LENGTH


@pytest.mark.parametrize("num_output_tokens", [0, 1000])
def test_a_suspect_that_comes_to_its_end_is_innocent(tmp_path, num_output_tokens):
    quarantine = Quarantine(evidence=evidence_against([1], num_output_tokens=num_output_tokens))
    core = CoreHarness(make_fake_runner(tmp_path), quarantine=quarantine)
    core.add([1])
    core.run()
    again = [core.add([1]), core.add([1])]
    core.step()
    assert [len(core.token_ids[item]) for item in again] == [1, 1]


def test_the_next_suspect_runs_when_one_is_aborted(tmp_path):
    core = CoreHarness(make_fake_runner(tmp_path), quarantine=Quarantine(evidence=evidence_against([1], [2], [3])))
    tried, held, last = (core.add([n]) for n in (1, 2, 3))
    core.step()
    core.abort(held)
    core.abort(tried)
    core.run()
    assert core.finished[last].reason is FinishReason.LENGTH
    core.check_idle()


def test_a_suspect_that_was_aborted_stays_one(tmp_path):
    core = CoreHarness(make_fake_runner(tmp_path), quarantine=Quarantine(evidence=evidence_against([1])))
    core.abort(core.add([1]))
    first, second = core.add([1]), core.add([1])
    core.step()
    assert [len(core.token_ids[item]) for item in (first, second)] == [1, 0]


def test_a_suspect_with_a_stop_string_is_innocent_when_its_client_has_found_it(tmp_path):
    evidence = evidence_against([1], num_output_tokens=100)
    core = CoreHarness(make_fake_runner(tmp_path), quarantine=Quarantine(evidence=evidence))
    suspect = core.add([1])
    core.step()
    core.abort(suspect, is_complete=True)
    again = [core.add([1]), core.add([1])]
    core.step()
    assert num_tokens_of(core, again) == [1, 1]


def test_nobody_is_a_suspect_for_longer_than_the_window(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: NOW + WINDOW_S + 1)
    evidence = evidence_against([1], num_output_tokens=100)
    core = CoreHarness(make_fake_runner(tmp_path), quarantine=Quarantine(evidence=evidence))
    requests = [core.add([1]) for _ in range(4)]
    core.step()
    assert num_tokens_of(core, requests) == [1, 1, 1, 1]


def test_requests_with_the_content_of_an_innocent_run_together(tmp_path):
    core = CoreHarness(make_fake_runner(tmp_path), quarantine=Quarantine(evidence=evidence_against([1], max_tokens=20)))
    requests = [core.add([1], max_tokens=20) for _ in range(4)]
    for _ in range(4):
        core.step()
    assert num_tokens_of(core, requests) == [4, 1, 1, 1]


def test_what_killed_the_core_twice_is_refused_for_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: NOW)
    evidence = evidence_against([1], num_crashes=MAX_CRASHES)
    core = CoreHarness(make_fake_runner(tmp_path), quarantine=Quarantine(evidence=evidence))
    with pytest.raises(RequestQuarantinedError):
        core.add([1], seed=7)
    core.add([2])
    core.run()
    monkeypatch.setattr("time.time", lambda: NOW + WINDOW_S + 1)
    core.add([1])
    core.run()


def test_the_journal_names_what_runs_and_nobody_when_nothing_does(tmp_path):
    path = tmp_path / "journal"
    core = CoreHarness(make_fake_runner(tmp_path), quarantine=Quarantine(CrashJournal(path)))
    core.add([1], max_tokens=3)
    core.step()
    second = core.add([2], max_tokens=10)
    core.step()

    def names():
        record, _ = crash_journal.read_journal(path)
        return [(request.digest, request.num_output_tokens) for request in record.running]

    assert names() == [(digest_of([1], max_tokens=3), 1), (digest_of([2], max_tokens=10), 0)]
    core.step()
    core.step()
    assert names() == [(digest_of([2], max_tokens=10), 2)]
    core.abort(second)
    assert names() == []


class RepeatingRunner:
    """Says the same token for ever, so that drafts are right."""

    def __init__(self, info):
        self.info = info

    def execute(self, step):
        output = ModelRunnerOutput()
        for item in step.scheduled:
            output.sampled_token_ids[item.key] = 7
            if item.draft_token_ids:
                right = takewhile(lambda draft: draft == 7, item.draft_token_ids)
                output.further_token_ids[item.key] = list(right)
        return output


def test_no_drafts_lie_between_what_the_journal_says_and_what_is_computed(tmp_path):
    """So that a suspect is not suspected for longer than it must be."""
    path = tmp_path / "journal"
    runner, quarantine = RepeatingRunner(make_fake_runner(tmp_path).info), Quarantine(CrashJournal(path))
    core = CoreHarness(runner, quarantine=quarantine, speculative="ngram")
    request = core.add([1, 2, 3], max_tokens=40)
    distances = set()
    while core.core.has_requests:
        num_tokens = len(core.token_ids[request])
        core.step()
        record, step = crash_journal.read_journal(path)
        if record.running:
            distances.add(num_tokens - (record.running[0].num_output_tokens + step - record.step))
    assert core.scheduler.num_accepted_tokens > 0
    assert distances == {0}


def test_what_another_core_died_of_is_learned_before_a_request_is_taken(tmp_path):
    news = [evidence_against([1], [2], max_tokens=20)]
    quarantine = Quarantine(learn=lambda known: news.pop() if news else None)
    core = CoreHarness(make_fake_runner(tmp_path), quarantine=quarantine)
    requests = [core.add([n], max_tokens=20) for n in (1, 2, 3)]
    core.step()
    assert num_tokens_of(core, requests) == [1, 0, 0]
    core.run()
    core.check_idle()


def test_who_got_past_the_place_is_acquitted_in_the_journal(tmp_path):
    path, evidence = tmp_path / "journal", evidence_against([1], max_tokens=3)
    crashes = evidence.suspects[digest_of([1], max_tokens=3)].crashes
    core = CoreHarness(make_fake_runner(tmp_path), quarantine=Quarantine(CrashJournal(path), evidence))
    core.add([1], max_tokens=3)
    core.run()
    record, _ = crash_journal.read_journal(path)
    assert [(item.digest, item.crashes) for item in record.acquittals] == [(digest_of([1], max_tokens=3), crashes)]
    assert record.suspects == ()
