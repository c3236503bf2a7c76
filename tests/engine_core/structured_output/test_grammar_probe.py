import os

import pytest

from engine_core.model.fake_runner import IM_END_ID, VOCAB_SIZE, write_fake_tokenizer
from engine_core.structured_output.grammar import GrammarError
from engine_core.structured_output.grammar_probe import GrammarProbe
from engine_core.structured_output.grammar_source import llguidance_grammar
from ipc.structured_output import GrammarKind, StructuredOutput
from tests.structured_output_cases import endless_grammar

DIGITS = llguidance_grammar(StructuredOutput(GrammarKind.REGEX, "[0-9]+"))


@pytest.fixture
def probe(tmp_path):
    write_fake_tokenizer(tmp_path)
    probe = GrammarProbe(tmp_path / "tokenizer.json", VOCAB_SIZE, (IM_END_ID,), time_limit_s=1.0)
    yield probe
    probe.close()


def child_pid(probe):
    return probe._child.pid


def test_a_grammar_passes_and_the_child_stays_for_the_next(probe):
    probe.check(DIGITS)
    first = child_pid(probe)
    probe.check(DIGITS)
    assert child_pid(probe) == first


def test_what_is_no_grammar_is_refused_with_the_reason(probe):
    with pytest.raises(GrammarError, match="regex"):
        probe.check(llguidance_grammar(StructuredOutput(GrammarKind.REGEX, "[0-9")))
    probe.check(DIGITS)


def test_a_grammar_that_takes_too_long_is_refused_and_its_child_killed(probe):
    probe.check(DIGITS)
    pid = child_pid(probe)
    with pytest.raises(GrammarError, match="longer than 1 s"):
        probe.check(llguidance_grammar(endless_grammar()))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    probe.check(DIGITS)


def test_a_child_that_died_is_replaced(probe):
    probe.check(DIGITS)
    os.kill(child_pid(probe), 9)
    with pytest.raises(GrammarError, match="memory"):
        probe.check(DIGITS)
    probe.check(DIGITS)
