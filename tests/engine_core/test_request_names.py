import logging

from engine_core.request_names import RequestNames


def record_of(**extra):
    record = logging.LogRecord("l", logging.INFO, "f.py", 1, "m", (), None)
    record.__dict__.update(extra)
    return record


def test_a_line_about_a_request_gets_the_name_that_its_user_knows():
    names = RequestNames({7: "chatcmpl-1"}.get)
    named, other = record_of(request_key=7), record_of()
    assert names.filter(named)
    assert names.filter(other)
    assert named.request_id == "chatcmpl-1"
    assert not hasattr(other, "request_id")


def test_a_name_that_is_there_stays():
    named = record_of(request_key=7, request_id="given")
    RequestNames({7: "chatcmpl-1"}.get).filter(named)
    assert named.request_id == "given"
