"""Priorities, tiers and timeouts."""

from typing import Any

import pytest
from starlette.datastructures import Headers

from frontend.access import ANYBODY, Caller
from frontend.openai.protocol import GenerationBody
from frontend.openai.request_options import named_priority_error, request_options, used_tier
from ipc.errors import InvalidRequestError, UnsupportedParameterError


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
    assert request_options(body(**fields), Headers(), ANYBODY)["priority"] == priority


@pytest.mark.parametrize(
    ("timeout", "header", "expected"), [(None, None, None), (5, None, 5), (None, "2.5", 2.5), (5, "9", 5), (9, "5", 5)]
)
def test_the_shorter_timeout_counts(timeout: float | None, header: str | None, expected: float | None):
    headers = Headers({} if header is None else {"x-request-timeout": header})
    assert request_options(body(timeout=timeout), headers, ANYBODY).get("timeout_s") == expected


def test_a_key_decides_about_the_flow_and_the_cache():
    options = request_options(body(user="me", cache_salt="s"), Headers(), Caller("key-1", has_own_cache=True))
    assert (options["flow"], options["cache_salt"]) == ("key-1", "key-1:s")
    options = request_options(body(user="me", cache_salt="s"), Headers(), ANYBODY)
    assert (options["flow"], options["cache_salt"]) == ("me", "s")


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
