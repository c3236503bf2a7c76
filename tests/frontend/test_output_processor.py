"""From engine outputs to text deltas: the same however the outputs are merged."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frontend.default_template import AnswerEnds
from frontend.output_processor import Finish, OutputProcessor, TextOptions
from frontend.tokenizer import FrontendTokenizer
from ipc.client import Output
from ipc.errors import EngineUnavailableError
from ipc.messages import CANCELLED, Finished, FinishReason, RequestId

EOS = 1


def finished(reason: FinishReason, stop_token_id: int = -1) -> Finished:
    return Finished(RequestId(1), reason, 3, 9, stop_token_id=stop_token_id)


def run(
    tokenizer: FrontendTokenizer, outputs: list[Output], options: TextOptions | None = None
) -> tuple[str, int, Finish | None]:
    processor = OutputProcessor(tokenizer, options or TextOptions(), (EOS,))
    texts = []
    for output in outputs:
        delta = processor.process(output)
        texts.append(delta.text)
        if delta.finish is not None:
            break
    return "".join(texts), delta.num_output_tokens, delta.finish


def test_eos_is_counted_and_not_shown(tokenizer: FrontendTokenizer):
    ids = tokenizer.backend.encode("hello").ids
    output = Output([*ids, EOS], finished=finished(FinishReason.STOP, EOS))
    options = TextOptions(skip_special_tokens=False)
    assert run(tokenizer, [output], options) == ("hello", len(ids) + 1, Finish("stop", None))


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_whole_answer_is_what_its_tokens_are_one_by_one(tokenizer: FrontendTokenizer, data: st.DataObject):
    """Bytes that are no text, special tokens in the middle, and a stop token that is shown or not."""
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), min_size=1, max_size=100))
    end = finished(FinishReason.STOP, ids[-1]) if data.draw(st.booleans()) else finished(FinishReason.LENGTH)
    options = TextOptions(
        skip_special_tokens=data.draw(st.booleans()), include_stop_str_in_output=data.draw(st.booleans())
    )
    one_by_one = [*(Output([token_id]) for token_id in ids[:-1]), Output(ids[-1:], finished=end)]
    assert run(tokenizer, [Output(ids, finished=end)], options) == run(tokenizer, one_by_one, options)


def test_another_stop_token_is_named(tokenizer: FrontendTokenizer):
    stop_token = tokenizer.backend.token_to_id("!")
    output = Output([stop_token], finished=finished(FinishReason.STOP, stop_token))
    assert run(tokenizer, [output]) == ("", 1, Finish("stop", stop_token))
    assert run(tokenizer, [output], TextOptions(include_stop_str_in_output=True))[0] == "!"


def test_what_ends_answers_as_eos_does_is_not_named(tokenizer: FrontendTokenizer):
    ids, stop_token = tokenizer.backend.encode("ab.").ids, tokenizer.backend.token_to_id("!")
    options = TextOptions(ends=AnswerEnds(strings=(".",), token_ids=(stop_token,)))
    assert run(tokenizer, [Output(ids)], options) == ("ab", len(ids), Finish("stop", None))
    assert run(tokenizer, [Output(ids)], replace(options, stop_strings=(".",)))[2] == Finish("stop", ".")
    output = Output([stop_token], finished=finished(FinishReason.STOP, stop_token))
    assert run(tokenizer, [output], options) == ("", 1, Finish("stop", None))


def test_length_ends_with_all_text(tokenizer: FrontendTokenizer):
    ids = tokenizer.backend.encode("hi END").ids
    options = TextOptions(stop_strings=("ENDING",))
    text, _, finish = run(tokenizer, [Output(ids, finished=finished(FinishReason.LENGTH))], options)
    assert (text, finish) == ("hi END", Finish("length", None))


def test_tokens_after_a_stop_string_are_not_counted(tokenizer: FrontendTokenizer):
    before, after = tokenizer.backend.encode("ab.").ids, tokenizer.backend.encode("zzzz").ids
    options = TextOptions(stop_strings=(".",))
    assert run(tokenizer, [Output(before + after)], options) == ("ab", len(before), Finish("stop", "."))


def test_a_stop_string_can_come_with_the_last_token(tokenizer: FrontendTokenizer):
    ids = tokenizer.backend.encode("ab.").ids
    output = Output(ids, finished=finished(FinishReason.LENGTH))
    assert run(tokenizer, [output], TextOptions(stop_strings=(".",)))[2] == Finish("stop", ".")


def test_stop_strings_are_ignored_before_min_tokens(tokenizer: FrontendTokenizer):
    dot = tokenizer.backend.token_to_id(".")
    options = TextOptions(stop_strings=(".",), min_tokens=2)
    text, num_tokens, finish = run(tokenizer, [Output([dot] * 4)], options)
    assert (text, num_tokens, finish) == ("..", 3, Finish("stop", "."))


def test_a_request_that_the_engine_gave_up_is_an_error(tokenizer: FrontendTokenizer):
    with pytest.raises(EngineUnavailableError):
        run(tokenizer, [Output([], finished=finished(FinishReason.ABORT))])


@pytest.mark.parametrize("tokens_come_first", [True, False])
def test_a_cancelled_answer_ends_where_it_is(tokenizer: FrontendTokenizer, tokens_come_first: bool):
    ids = tokenizer.backend.encode("hello wor").ids
    end = replace(finished(FinishReason.ABORT), error_code=CANCELLED)
    outputs = [Output(ids), Output([], finished=end)] if tokens_come_first else [Output(ids, finished=end)]
    options = TextOptions(stop_strings=("world",))
    assert run(tokenizer, outputs, options) == ("hello wor", len(ids), Finish("abort", None))


def test_a_cancelled_answer_may_have_nothing(tokenizer: FrontendTokenizer):
    end = replace(finished(FinishReason.ABORT), error_code=CANCELLED)
    for options in (TextOptions(), TextOptions(is_prompt_only=True)):
        assert run(tokenizer, [Output([], finished=end)], options) == ("", 0, Finish("abort", None))


@given(
    text=st.text(alphabet="ab .👩‍日é", max_size=30),
    stops=st.lists(st.text(alphabet="ab .👩‍日é", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 90), max_size=8),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_merging_outputs_changes_nothing(tokenizer: FrontendTokenizer, text: str, stops: list[str], cuts: list[int]):
    ids = [*tokenizer.backend.encode(text).ids, EOS]
    options = TextOptions(stop_strings=tuple(stops))
    edges = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    end = finished(FinishReason.STOP, EOS)
    pieces = [Output(ids[begin:stop]) for begin, stop in pairwise(edges)]
    pieces[-1].finished = end
    cut_up = run(tokenizer, pieces, options)
    whole = run(tokenizer, [Output(list(ids), finished=end)], options)
    assert cut_up[:2] == whole[:2]
    assert (cut_up[2] and cut_up[2].reason, cut_up[2] and cut_up[2].stop_reason) == (
        whole[2] and whole[2].reason,
        whole[2] and whole[2].stop_reason,
    )


@pytest.mark.parametrize("size", [1, 3, 100])
def test_reasoning_is_counted_however_outputs_are_merged(tokenizer: FrontendTokenizer, size: int):
    reasoning, answer = (tokenizer.backend.encode(text).ids for text in ("<think>hello</think>", "hello world"))
    ids = reasoning + answer
    processor = OutputProcessor(tokenizer, TextOptions(starts_in_reasoning=False), (EOS,))
    for start in range(0, len(ids), size):
        processor.process(Output(ids[start : start + size]))
    assert processor.num_reasoning_tokens == len(reasoning)
