"""The three shapes of log-probabilities."""

import json
import math

import orjson

from frontend.answer_tokens import AnswerToken
from frontend.openai.logprobs import LogprobsWriter
from frontend.tokenizer import FrontendTokenizer
from ipc.request_outputs import TokenLogprobs


def writer(tokenizer: FrontendTokenizer, *, num_best: int = 2, as_token_ids: bool = False) -> LogprobsWriter:
    return LogprobsWriter(tokenizer.token_texts, num_best=num_best, as_token_ids=as_token_ids)


def ids(tokenizer: FrontendTokenizer, *tokens: str) -> tuple[int, ...]:
    return tuple(tokenizer.backend.token_to_id(token) for token in tokens)


def test_a_chat_entry_is_the_token_and_the_best_ones(tokenizer: FrontendTokenizer):
    row = TokenLogprobs(5, ids(tokenizer, "ð", "a", "b", "c"), (-5.0, -0.1, -0.2, -0.3))
    (entry,) = writer(tokenizer).chat([AnswerToken(row.token_ids[0], row, 0)])["content"]
    assert (entry["token"], entry["logprob"], entry["bytes"]) == ("bytes:\\xf0", -5.0, [0xF0])
    assert [(item["token"], item["bytes"]) for item in entry["top_logprobs"]] == [("a", [97]), ("b", [98])]


def test_minus_infinity_is_a_number(tokenizer: FrontendTokenizer):
    row = TokenLogprobs(5, ids(tokenizer, "a", "b"), (-math.inf, -math.inf))
    token = AnswerToken(row.token_ids[0], row, 0)
    found = json.loads(orjson.dumps([writer(tokenizer).chat([token]), writer(tokenizer).completion([token])]))
    assert found[0]["content"][0]["logprob"] == found[1]["token_logprobs"][0] == -9999
    assert found[1]["top_logprobs"] == [{"a": -9999, "b": -9999}]


def test_of_equal_texts_the_best_counts(tokenizer: FrontendTokenizer):
    """So that a token that is not the best one never looks like it."""
    unknown = (50_000, 60_000)
    row = TokenLogprobs(2, unknown, (-3.0, -0.5))
    assert writer(tokenizer).completion([AnswerToken(50_000, row, 0)])["top_logprobs"] == [{"": -0.5}]


def test_ids_in_place_of_texts(tokenizer: FrontendTokenizer):
    row = TokenLogprobs(2, (7, 8), (-3.0, -0.5))
    found = writer(tokenizer, as_token_ids=True).completion([AnswerToken(7, row, 4)], offset=10)
    assert found == {
        "tokens": ["token_id:7"],
        "token_logprobs": [-3.0],
        "top_logprobs": [{"token_id:7": -3.0, "token_id:8": -0.5}],
        "text_offset": [14],
    }


def test_prompt_logprobs_name_ranks(tokenizer: FrontendTokenizer):
    a, b, c = ids(tokenizer, "a", "b", "c")
    rows = [TokenLogprobs(9, (a, b, c), (-4.0, -0.1, -0.2)), TokenLogprobs(1, (b, b, c), (-0.1, -0.1, -0.2))]
    found = writer(tokenizer).prompt(rows, 2)
    assert found[0] is None
    assert [(key, entry["rank"]) for key, entry in found[1].items()] == [(str(a), 9), (str(b), 1), (str(c), 2)]
    assert found[2] == {
        str(b): {"logprob": -0.1, "rank": 1, "decoded_token": "b"},
        str(c): {"logprob": -0.2, "rank": 2, "decoded_token": "c"},
    }
