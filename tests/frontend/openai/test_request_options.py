"""Priorities, tiers and timeouts."""

from typing import Any

import pytest

from frontend.access import Caller
from frontend.api_call import ApiCall
from frontend.openai.protocol import GenerationBody
from frontend.openai.request_options import named_priority_error, request_options, used_tier
from ipc.errors import InvalidRequestError, UnsupportedParameterError
from ipc.messages import RequestClass


def body(**fields: Any) -> GenerationBody:
    return GenerationBody.model_validate({"model": "m", **fields})


@pytest.mark.parametrize(
    ("fields", "priority"),
    [
        ({}, 0),
        ({"priority": 3}, 3),
        ({"service_tier": "auto", "priority": 3}, 3),
        ({"service_tier": "flex"}, 10),
        ({"service_tier": "priority", "priority": 3}, -7),
        ({"service_tier": "flex", "priority": 2**31 - 1}, 2**31 - 1),
        ({"service_tier": "priority", "priority": -(2**31)}, -(2**31)),
    ],
)
def test_tiers_are_priorities(fields: dict[str, Any], priority: int):
    assert request_options(ApiCall(), body(**fields), "")["priority"] == priority


@pytest.mark.parametrize(
    ("timeout", "header", "expected"), [(None, None, None), (5, None, 5), (None, "2.5", 2.5), (5, "9", 5), (9, "5", 5)]
)
def test_the_shorter_timeout_counts(timeout: float | None, header: str | None, expected: float | None):
    assert request_options(ApiCall(timeout=header), body(timeout=timeout), "").get("timeout_s") == expected


def test_a_key_decides_about_the_flow_and_the_cache():
    call = ApiCall(Caller("key-1", has_own_cache=True))
    options = request_options(call, body(user="me", cache_salt="s"), "")
    assert (options["flow"], options["cache_salt"]) == ("key-1", "key-1:s")
    options = request_options(ApiCall(), body(user="me", cache_salt="s"), "")
    assert (options["flow"], options["cache_salt"]) == ("me", "s")


def test_a_request_has_the_names_of_its_call_and_of_its_answer():
    call = ApiCall(request_id="r", arrival_time_us=5, request_class=RequestClass.BATCH)
    options = request_options(call, body(), "chatcmpl-1")
    assert options["external_ids"] == ("r", "chatcmpl-1")
    assert (options["arrival_time_us"], options["request_class"]) == (5, RequestClass.BATCH)
    assert call.options("r")["external_ids"] == ("r",)


def test_the_tier_is_named_only_where_somebody_asked():
    assert used_tier(body()) is None
    assert used_tier(body(service_tier="auto")) == "default"


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"service_tier": "flex"}, "service_tier"), ({"service_tier": "flex", "priority": 1}, "priority")],
)
def test_a_refused_priority_is_named_as_it_was_given(fields: dict[str, Any], param: str):
    refusal = UnsupportedParameterError("no", param="priority")
    named = named_priority_error(refusal, body(**fields))
    assert isinstance(named, InvalidRequestError)
    assert (named.param, named.code) == (param, "unsupported_parameter")
