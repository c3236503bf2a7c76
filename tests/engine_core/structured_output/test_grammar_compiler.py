import threading
import time
from queue import Empty, SimpleQueue

import pytest

from engine_core.model.fake_runner import IM_END_ID, VOCAB_SIZE
from engine_core.outputs import RequestKey
from engine_core.structured_output.grammar_compiler import GrammarCompiler
from ipc.structured_output import GrammarKind, StructuredOutput
from tests.structured_output_cases import endless_grammar

DIGITS = StructuredOutput(GrammarKind.REGEX, "[0-9]{3}")
LETTERS = StructuredOutput(GrammarKind.REGEX, "[a-z]+")
BAD = StructuredOutput(GrammarKind.REGEX, "(")


class GatedCompiler(GrammarCompiler):
    """Compiles some grammars only when the gate is open, and counts what it compiles."""

    def __init__(self, *arguments, gated=(DIGITS,), **options):
        super().__init__(*arguments, **options)
        self.gate = threading.Event()
        self.gated = gated
        self.built = []
        self.begun = SimpleQueue()

    def build(self, structured_output, probe):
        self.built.append(structured_output)
        self.begun.put(structured_output)
        if structured_output in self.gated:
            assert self.gate.wait(20)
        return super().build(structured_output, probe)


@pytest.fixture
def results():
    return SimpleQueue()


@pytest.fixture
def make(tokenizer_dir, results):
    """Makes compilers, which end with the test."""
    compilers = []

    def make(
        kind=GrammarCompiler, *, vocab_size=VOCAB_SIZE, eos_token_ids=(IM_END_ID,), folder=tokenizer_dir, **options
    ):
        compiler = kind(folder, vocab_size, eos_token_ids, lambda *result: results.put(result), **options)
        compilers.append(compiler)
        return compiler

    yield make
    for compiler in compilers:
        if isinstance(compiler, GatedCompiler):
            compiler.gate.set()
        compiler.close()


def take(results, count):
    """The next answers, by key: grammar, error code, message."""
    return {key: answer for key, *answer in (results.get(timeout=10) for _ in range(count))}


def assert_silent(results):
    with pytest.raises(Empty):
        results.get(timeout=0.1)


def test_a_grammar_comes_back_with_its_key(make, results, matches):
    make().compile(RequestKey(7), DIGITS)
    grammar, *error = take(results, 1)[7]
    assert matches(grammar, "123")
    assert error == ["", ""]


def test_a_bad_grammar_comes_back_as_a_message(make, results):
    make().compile(RequestKey(7), BAD)
    grammar, code, message = take(results, 1)[7]
    assert (grammar, code) == (None, "invalid_grammar")
    assert "unclosed" in message


def test_50_requests_at_once_compile_their_grammar_once(make, results):
    compiler = make(GatedCompiler)
    for key in range(50):
        compiler.compile(RequestKey(key), DIGITS)
    compiler.gate.set()
    answers = take(results, 50)
    assert set(answers) == set(range(50))
    assert len({id(grammar) for grammar, *_ in answers.values()}) == 1
    assert compiler.built == [DIGITS]


def test_a_grammar_that_was_there_before_is_not_compiled_again(make, results):
    compiler = make(GatedCompiler)
    compiler.gate.set()
    for key in range(3):
        compiler.compile(RequestKey(key), DIGITS)
        take(results, 1)
    assert compiler.built == [DIGITS]


def test_a_spoiled_grammar_is_compiled_again(make, results):
    compiler = make(GatedCompiler, gated=())
    compiler.compile(RequestKey(1), DIGITS)
    grammar = take(results, 1)[1][0]
    grammar.is_spoiled = True
    compiler.compile(RequestKey(2), DIGITS)
    again = take(results, 1)[2][0]
    assert again is not grammar
    assert compiler.built == [DIGITS, DIGITS]


def test_one_slow_grammar_does_not_hold_up_the_others(make, results):
    compiler = make(GatedCompiler)
    compiler.compile(RequestKey(1), DIGITS)
    for key in range(2, 5):
        compiler.compile(RequestKey(key), LETTERS)
    assert set(take(results, 3)) == {2, 3, 4}
    compiler.gate.set()
    assert set(take(results, 1)) == {1}


def test_who_waits_too_long_for_a_thread_may_try_again_and_is_never_compiled(make, results):
    compiler = make(GatedCompiler, queue_timeout_s=0.05, num_threads=1)
    compiler.compile(RequestKey(1), DIGITS)
    compiler.begun.get(timeout=10)
    compiler.compile(RequestKey(2), LETTERS)
    time.sleep(0.1)
    compiler.gate.set()
    answers = take(results, 2)
    assert answers[1][0] is not None
    assert answers[2][:2] == [None, "grammar_queue_full"]
    assert compiler.built == [DIGITS]


def test_grammars_that_would_take_for_ever_fail_and_leave_the_others_alone(make, results):
    compiler = make(time_limit_s=0.5)
    for key in range(3):
        compiler.compile(RequestKey(key), endless_grammar(30 + key))
    compiler.compile(RequestKey(9), LETTERS)
    answers = take(results, 4)
    assert answers.pop(9)[0] is not None
    assert {code for _, code, _ in answers.values()} == {"invalid_grammar"}
    assert all("longer than" in message for *_, message in answers.values())


def test_a_cancelled_grammar_is_not_begun(make, results):
    compiler = make(GatedCompiler, num_threads=1)
    compiler.compile(RequestKey(1), DIGITS)
    compiler.begun.get(timeout=10)
    compiler.compile(RequestKey(2), BAD)
    compiler.compile(RequestKey(3), LETTERS)
    compiler.cancel(RequestKey(2))
    compiler.gate.set()
    assert set(take(results, 2)) == {1, 3}
    assert compiler.built == [DIGITS, LETTERS]


def test_a_cancelled_request_leaves_the_grammar_to_the_others(make, results):
    compiler = make(GatedCompiler)
    for key in (1, 2):
        compiler.compile(RequestKey(key), DIGITS)
    compiler.cancel(RequestKey(1))
    compiler.cancel(RequestKey(99))
    compiler.gate.set()
    assert take(results, 1)[2][0] is not None
    assert_silent(results)


def test_close_waits_for_what_is_being_compiled(make):
    before = set(threading.enumerate())
    compiler = make(GatedCompiler)
    compiler.compile(RequestKey(1), DIGITS)
    compiler.begun.get(timeout=10)
    timer = threading.Timer(0.1, compiler.gate.set)
    timer.start()
    compiler.close()
    timer.join()
    assert set(threading.enumerate()) <= before


def test_close_does_not_wait_longer_than_it_is_told(make):
    compiler = make(GatedCompiler)
    compiler.compile(RequestKey(1), DIGITS)
    compiler.begun.get(timeout=10)
    compiler.close(timeout_s=0.01)  # would hang, for its gate is shut
    assert any(thread.is_alive() for thread in compiler._threads)


def test_nothing_is_answered_after_close(make, results):
    compiler = make(GatedCompiler)
    compiler.compile(RequestKey(1), DIGITS)
    compiler.compile(RequestKey(2), DIGITS)
    compiler.close(timeout_s=0.0)
    compiler.gate.set()
    compiler.compile(RequestKey(3), LETTERS)
    assert_silent(results)


def test_matchers_can_be_made_on_many_threads_at_once(make, results, matches):
    make().compile(RequestKey(1), LETTERS)
    grammar = take(results, 1)[1][0]
    verdicts = []
    threads = [
        threading.Thread(target=lambda: verdicts.extend(matches(grammar, "word" * 5) for _ in range(20)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [True] * 160


@pytest.mark.parametrize("vocab_size", [VOCAB_SIZE - 1, VOCAB_SIZE, VOCAB_SIZE + 500])
def test_the_model_may_have_more_or_fewer_tokens_than_its_tokenizer(make, results, allowed, vocab_size):
    make(vocab_size=vocab_size, eos_token_ids=(0,)).compile(RequestKey(1), LETTERS)
    grammar = take(results, 1)[1][0]
    assert allowed(grammar.new_matcher(), vocab_size) == set(b"abcdefghijklmnopqrstuvwxyz")


def test_a_model_without_eos_gives_no_structured_output(make, results):
    make(eos_token_ids=()).compile(RequestKey(1), LETTERS)
    assert "end-of-sequence" in take(results, 1)[1][2]


def test_a_tokenizer_that_cannot_be_read_fails_the_requests_and_is_logged(make, results, tmp_path, caplog):
    make(folder=tmp_path).compile(RequestKey(1), LETTERS)
    assert take(results, 1)[1] == [None, "grammar_queue_full", "The grammar could not be compiled. Try again later."]
    assert "a grammar could not be compiled" in caplog.text
