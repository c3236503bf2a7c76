"""No option is silently ignored."""

from typing import Any

import pytest

from frontend.openai.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    RerankRequest,
    ScoreRequest,
    TokenizeRequest,
)
from frontend.openai.unsupported import HARMLESS_PARAMETERS, UNSUPPORTED_PARAMETERS, check_supported
from ipc.errors import UnsupportedParameterError


@pytest.mark.parametrize("name", sorted(UNSUPPORTED_PARAMETERS))
def test_a_value_that_matters_is_refused_by_name(name: str):
    with pytest.raises(UnsupportedParameterError) as caught:
        check_supported({name: "surely not the default"}, set())
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, item in UNSUPPORTED_PARAMETERS.items() for value in (*item.neutral, None)],
)
def test_a_value_that_asks_for_nothing_is_accepted(name: str, value: Any):
    check_supported({name: value}, set())


@pytest.mark.parametrize("body", [EmbeddingRequest, ScoreRequest, RerankRequest])
def test_bodies_with_tables_of_their_own_refuse_each_of_these(body: Any):
    table = body.unsupported_parameters
    for name, item in table.items():
        for value in (*item.neutral, None):
            check_supported({name: value}, body.model_fields, table)
        if name not in body.model_fields:
            with pytest.raises(UnsupportedParameterError, match=name):
                check_supported({name: "surely not the default"}, body.model_fields, table)


@pytest.mark.parametrize(("name", "value"), [("echo", 0), ("best_of", True), ("length_penalty", True)])
def test_false_is_not_zero(name: str, value: object):
    with pytest.raises(UnsupportedParameterError):
        check_supported({name: value}, set())


@pytest.mark.parametrize("name", sorted(UNSUPPORTED_PARAMETERS.keys() | HARMLESS_PARAMETERS.keys()))
def test_a_listed_field_is_one_that_some_endpoint_does_not_honour(name: str):
    bodies = (ChatCompletionRequest, CompletionRequest, EmbeddingRequest, TokenizeRequest)
    assert any(name not in body.model_fields for body in bodies)


def test_what_one_endpoint_honours_the_others_refuse():
    check_supported({"echo": True}, set(CompletionRequest.model_fields))
    with pytest.raises(UnsupportedParameterError):
        check_supported({"echo": True}, set(ChatCompletionRequest.model_fields))
