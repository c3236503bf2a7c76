"""Every custom_id is claimed once, over all runs."""

from hypothesis import given
from hypothesis import strategies as st

from frontend.batch.ledger import LineLedger
from frontend.batch.lines import BatchLine, WrongLine
from frontend.batch.result_lines import DoneLine


def request(number: int, custom_id: str) -> BatchLine:
    return BatchLine(number, custom_id, "/v1/completions", {})


def test_what_an_earlier_run_has_done_is_not_claimed_again():
    ledger = LineLedger()
    ledger.note_done(DoneLine("a", 0, is_ok=True))
    ledger.note_done(DoneLine(None, 2, is_ok=False))
    assert ledger.claim(request(1, "a")) is None
    assert ledger.claim(WrongLine(2, None, "invalid_json", "no")) is None
    assert ledger.claim(request(3, "b")) == request(3, "b")
    assert (ledger.num_ok, ledger.num_failed) == (1, 1)


def test_the_second_line_with_a_custom_id_is_wrong():
    ledger = LineLedger()
    ledger.claim(request(1, "a"))
    duplicate = ledger.claim(request(2, "a"))
    assert isinstance(duplicate, WrongLine)
    assert (duplicate.number, duplicate.custom_id, duplicate.code) == (2, None, "duplicate_custom_id")


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.data())
def test_a_run_that_stops_anywhere_and_one_after_it_claim_each_id_once(ids: list[str], data: st.DataObject):
    """Whatever the first run has claimed, it has written only some of it."""
    lines = [request(number, custom_id) for number, custom_id in enumerate(ids, 1)]
    first, done = LineLedger(), []
    for line in lines[: data.draw(st.integers(0, len(lines)))]:
        claimed = first.claim(line)
        assert claimed is not None
        if data.draw(st.booleans()):
            done.append(DoneLine(claimed.custom_id, 0 if claimed.custom_id else claimed.number, is_ok=True))
    second = LineLedger()
    for entry in done:
        second.note_done(entry)
    claimed_again = [claimed for line in lines if (claimed := second.claim(line)) is not None]
    claimed_ids = [entry.custom_id for entry in done if entry.custom_id]
    claimed_ids += [line.custom_id for line in claimed_again if line.custom_id]
    assert sorted(claimed_ids) == sorted(set(ids))
    assert len(done) + len(claimed_again) == len(lines)
