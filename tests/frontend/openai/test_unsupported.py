"""No option is silently ignored."""

from typing import Any

import pytest

from frontend.openai.protocol import ChatCompletionRequest, CompletionRequest, EmbeddingRequest
from frontend.openai.unsupported import HARMLESS_PARAMETERS, UNSUPPORTED_PARAMETERS, check_supported
from ipc.errors import UnsupportedParameterError


@pytest.mark.parametrize("name", sorted(UNSUPPORTED_PARAMETERS))
def test_a_value_that_matters_is_refused_by_name(name: str):
    with pytest.raises(UnsupportedParameterError) as caught:
        check_supported({name: "surely not the default"}, set())
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in UNSUPPORTED_PARAMETERS.items() for value in (*values, None)]
)
def test_a_value_that_asks_for_nothing_is_accepted(name: str, value: Any):
    check_supported({name: value}, set())


@pytest.mark.parametrize(("name", "value"), [("logprobs", 0), ("best_of", True), ("frequency_penalty", False)])
def test_false_is_not_zero(name: str, value: object):
    with pytest.raises(UnsupportedParameterError):
        check_supported({name: value}, set())


@pytest.mark.parametrize("body", [ChatCompletionRequest, CompletionRequest, EmbeddingRequest])
def test_no_field_is_both_honoured_and_listed(body: type[ChatCompletionRequest]):
    assert not body.model_fields.keys() & (UNSUPPORTED_PARAMETERS.keys() | HARMLESS_PARAMETERS)
