"""What a streamed answer says, and its figures."""

from itertools import count

import pytest

from fast_inference.api_client.answer import StreamedAnswer
from fast_inference.api_client.connection import ApiError


def chat_chunk(**delta):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def test_text_thoughts_and_the_end():
    answer = StreamedAnswer()
    end = {"choices": [{"delta": {}, "finish_reason": "length"}]}
    pieces = answer.pieces(
        iter([chat_chunk(reasoning_content="hm"), chat_chunk(content="a"), chat_chunk(content="b"), end])
    )
    assert list(pieces) == [("hm", True), ("a", False), ("b", False)]
    assert (answer.text, answer.finish_reason) == ("ab", "length")


def test_a_completion_has_its_text_beside_the_choice():
    answer = StreamedAnswer()
    assert list(answer.pieces(iter([{"choices": [{"text": "x", "finish_reason": None}]}]))) == [("x", False)]


def test_figures_by_the_servers_count():
    ticks = count()
    answer = StreamedAnswer(clock=lambda: next(ticks))  # sent at 0, pieces at 1, 2
    usage = {
        "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 21, "prompt_tokens_details": {"cached_tokens": 4}},
    }
    list(answer.pieces(iter([chat_chunk(content="a"), chat_chunk(content="b"), usage])))
    assert (answer.num_tokens, answer.ttft_s) == (21, 1)
    assert answer.tokens_per_second == pytest.approx(20)
    assert answer.describe() == "21 tokens · 20.0 tok/s · first after 1,000 ms · prompt 9, 4 of it cached"


@pytest.mark.parametrize("chunk", [{"choices": ["x"]}, {"choices": 1}, {"choices": [{"delta": {"content": 3}}]}])
def test_chunks_that_are_none_are_an_error(chunk):
    with pytest.raises(ApiError):
        list(StreamedAnswer().pieces(iter([chunk])))


def test_of_several_answers_the_first_is_shown():
    choices = [{"index": 0, "text": "a"}, {"index": 1, "text": "b"}]
    assert list(StreamedAnswer().pieces(iter([{"choices": choices}]))) == [("a", False)]


def test_an_empty_answer_has_no_speed():
    answer = StreamedAnswer()
    list(answer.pieces(iter([])))
    assert answer.describe() == "0 tokens"
