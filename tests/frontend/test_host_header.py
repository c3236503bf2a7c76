"""Which Host headers are answered, and by whom."""

import pytest

from frontend.errors import HostNotAllowedError, MalformedRequestError
from frontend.host_header import HostPolicy
from ipc.config import AccessConfig

PUBLIC_NAME = b"rebound.example.com"


def check(*hosts: bytes, is_local: bool = True, is_required: bool = True, **settings) -> None:
    HostPolicy(AccessConfig(**settings), is_local=is_local).check(hosts, is_required=is_required)


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LOCALHOST:8000",
        b"127.0.0.1:8000",
        b"[::1]",
        b"[::1]:8000",
        b"192.168.1.5",
        b"llm:8000",
        b"host.docker.internal:8000",
        b"a.localhost",
        b"localhost.",
    ],
)
def test_on_loopback_local_names_and_addresses_are_answered(host):
    check(host)


@pytest.mark.parametrize(
    "host", [PUBLIC_NAME, b"127.0.0.1.example.com", b"localhost.example.com:8000", b"evilinternal.com", b"127.1"]
)
def test_on_loopback_a_name_that_anyone_can_register_is_refused(host):
    with pytest.raises(HostNotAllowedError):
        check(host)


def test_a_server_for_everybody_answers_under_any_name():
    check(PUBLIC_NAME, is_local=False)


def test_a_key_is_protection_enough():
    check(PUBLIC_NAME, api_key=("secret",))


@pytest.mark.parametrize("allowed", [("*",), ("api.example.com", "Rebound.Example.com")])
def test_names_can_be_allowed(allowed):
    check(PUBLIC_NAME + b":443", allowed_hosts=allowed)


def test_a_list_of_names_holds_everywhere():
    with pytest.raises(HostNotAllowedError):
        check(PUBLIC_NAME, is_local=False, api_key=("secret",), allowed_hosts=("api.example.com",))


@pytest.mark.parametrize(
    "host", [b"", b"a/health/live?", b"a b", b"a,b", b"u@a", b"a:b", b"a:1:2", b"[::1", b"::1", b"a\xff", b"a\n"]
)
def test_what_is_no_host_is_refused_everywhere(host):
    with pytest.raises(MalformedRequestError):
        check(host, is_local=False, allowed_hosts=("*",))


def test_there_must_be_exactly_one():
    with pytest.raises(MalformedRequestError):
        check()
    with pytest.raises(MalformedRequestError):
        check(b"x", b"x")


def test_http_1_0_has_none_or_one():
    check(is_required=False)
    with pytest.raises(MalformedRequestError):
        check(b"x", b"x", is_required=False)
