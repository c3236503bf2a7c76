"""What one body may ask for in all."""

from typing import Any

import pytest

from frontend.input_processor import EngineInput
from frontend.openai.protocol import CompletionRequest
from frontend.request_limits import MAX_LOGPROB_ENTRIES, MAX_REPEATED_IDS, check_limits
from ipc.errors import InvalidRequestError
from ipc.sampling_params import SamplingParams


def check(num_answers: int, num_prompt_tokens: int = 1, params: dict[str, Any] | None = None, **fields: Any) -> None:
    body = CompletionRequest.model_validate({"model": "m", "prompt": "x", **fields})
    sampling_params = SamplingParams(**{"max_tokens": 1, **(params or {})})
    check_limits(body, [EngineInput([5] * num_prompt_tokens, sampling_params)] * num_answers, is_kept=not body.stream)


@pytest.mark.parametrize(
    ("name", "params", "fields"),
    [
        ("logprobs", {"num_logprobs": 1, "max_tokens": MAX_LOGPROB_ENTRIES // 8}, {"logprobs": 1}),
        ("prompt_logprobs", {"num_prompt_logprobs": MAX_LOGPROB_ENTRIES // 40 - 1}, {"prompt_logprobs": 1}),
    ],
)
def test_log_probabilities_are_limited_in_all(name: str, params: dict[str, Any], fields: dict[str, Any]):
    num_prompt_tokens = 10 if name == "prompt_logprobs" else 1
    check(3, num_prompt_tokens, params, **fields)
    with pytest.raises(InvalidRequestError) as caught:
        check(5, num_prompt_tokens, params, **fields)
    assert caught.value.param == name


def test_a_stream_keeps_none_of_its_answers():
    check(5, 1, {"num_logprobs": 1, "max_tokens": MAX_LOGPROB_ENTRIES}, logprobs=1, stream=True)


def test_without_log_probabilities_there_is_no_limit():
    check(1000, 8192, {"max_tokens": 8192})


@pytest.mark.parametrize("name", ["allowed_token_ids", "logit_bias"])
def test_long_lists_are_limited_in_all(name: str):
    ids = {str(index): 1 for index in range(4096)} if name == "logit_bias" else [5] * 4096
    check(MAX_REPEATED_IDS // 4096, **{name: ids})
    with pytest.raises(InvalidRequestError) as caught:
        check(MAX_REPEATED_IDS // 4096 + 1, **{name: ids})
    assert caught.value.param == name


def test_a_stream_that_repeats_its_answer_keeps_it():
    body = CompletionRequest.model_validate({"model": "m", "prompt": "x", "logprobs": 1, "stream": True})
    params = SamplingParams(max_tokens=MAX_LOGPROB_ENTRIES, num_logprobs=1)
    with pytest.raises(InvalidRequestError) as caught:
        check_limits(body, [EngineInput([5], params)], is_kept=True)
    assert caught.value.param == "logprobs"
