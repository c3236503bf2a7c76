"""Lines of the log that nothing can forge, as text and as JSON."""

import json
import logging
import subprocess
import sys

import pytest

from ipc.log import JsonFormatter, TextFormatter, current_request_id

FORGED = "x\n2026-01-01 00:00:00,000 ERROR core forged: y\r\x1b[2J\x85\u2028z"


def record_of(message, *arguments, exc_info=None, **extra):
    record = logging.LogRecord("a.logger", logging.WARNING, "file.py", 1, message, arguments, exc_info)
    record.__dict__.update(extra)
    return record


def failure(message):
    try:
        raise ValueError(message)
    except ValueError:
        return sys.exc_info()


def test_text_is_one_line_whatever_it_says():
    line = TextFormatter("core").format(record_of("model %s", FORGED))
    assert len(line.splitlines()) == 1
    assert line.endswith(
        "WARNING core a.logger: model x\\x0a2026-01-01 00:00:00,000 ERROR core forged: y\\x0d\\x1b[2J\\x85\\x2028z"
    )


@pytest.mark.parametrize(
    ("message", "line_end"),
    [("failed", "failed [a]"), ("request a failed", "request a failed"), ("200 a", "200 a"), ("", " [a]")],
)
def test_a_line_names_its_request_once(message, line_end):
    assert TextFormatter("core").format(record_of(message, request_id="a")).endswith(line_end)


def test_a_trace_is_indented_and_cannot_forge_a_line():
    first, *rest = TextFormatter("core").format(record_of("failed", exc_info=failure(FORGED))).splitlines()
    assert first.endswith("a.logger: failed")
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in "".join(rest)


def test_json_is_one_object_with_all_that_is_known():
    line = JsonFormatter("core").format(record_of("model %s", FORGED, exc_info=failure(FORGED), request_id="r-1"))
    assert len(line.splitlines()) == 1
    values = json.loads(line)
    assert list(values) == ["time", "level", "process", "logger", "message", "request_id", "trace"]
    assert values["message"] == f"model {FORGED}"
    assert (values["level"], values["process"], values["request_id"]) == ("warning", "core", "r-1")
    assert values["trace"].startswith("Traceback")
    assert FORGED in values["trace"]


@pytest.mark.parametrize("formatter", [TextFormatter("f"), JsonFormatter("f")])
def test_lone_surrogates_can_be_written(formatter):
    line = formatter.format(record_of("\ud800"))
    assert line.encode(errors="backslashreplace").decode().isascii()


def test_a_record_is_about_the_request_that_its_task_serves():
    token = current_request_id.set("abc")
    try:
        assert json.loads(JsonFormatter("f").format(record_of("m")))["request_id"] == "abc"
        assert TextFormatter("f").format(record_of("m")).endswith(": m [abc]")
        assert TextFormatter("f").format(record_of("m abc")).endswith(": m abc")
    finally:
        current_request_id.reset(token)
    assert "request_id" not in json.loads(JsonFormatter("f").format(record_of("m")))


def test_everything_that_a_process_says_has_the_same_form():
    """Also warnings, uvicorn's lines, and what ends a thread."""
    script = (
        "import logging, threading, warnings; from ipc.config import LogConfig; from ipc.log import configure_logging;"
        "configure_logging(LogConfig(log_format='json'), 'test'); warnings.warn('old');"
        "logging.getLogger('uvicorn.error').info('Started server process [%d]', 7);"
        "thread = threading.Thread(target=lambda: 1 / 0, name='worker'); thread.start(); thread.join()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    warning, start, failure = [json.loads(line) for line in done.stderr.splitlines()]
    assert (warning["logger"], "old" in warning["message"]) == ("py.warnings", True)
    assert (start["logger"], start["message"]) == ("uvicorn.error", "Started server process [7]")
    assert (failure["message"], "ZeroDivisionError" in failure["trace"]) == ("the thread worker failed", True)
