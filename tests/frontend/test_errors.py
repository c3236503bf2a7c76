"""The table of errors: complete, and silent about our insides."""

import json

import pytest

import frontend.app  # noqa: F401  loads every module that defines errors
from frontend.errors import (
    HTTP_STATUSES,
    AdminKeyRequiredError,
    BodyTooLargeError,
    HeadTooLargeError,
    InvalidApiKeyError,
    ShuttingDownError,
    error_body,
    error_response,
)
from ipc.errors import (
    ConfigError,
    ContextLengthError,
    EngineUnavailableError,
    FastInferenceError,
    ModelNotFoundError,
    QueueFullError,
    RequestFailedError,
)


def all_error_classes(base: type[FastInferenceError] = FastInferenceError) -> set[type[FastInferenceError]]:
    """Those that a frontend can meet; the core has more of its own, which never leave it as such."""
    children = (child for child in base.__subclasses__() if not child.__module__.startswith("engine_core."))
    return {base}.union(*(all_error_classes(child) for child in children))


def test_every_error_class_has_a_status():
    assert all_error_classes() == set(HTTP_STATUSES)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ContextLengthError("too long", param="prompt"), 400, "context_length_exceeded"),
        (ModelNotFoundError("no", param="model"), 404, "model_not_found"),
        (BodyTooLargeError("big"), 413, "body_too_large"),
        (HeadTooLargeError("big"), 431, "headers_too_large"),
        (InvalidApiKeyError("no"), 401, "invalid_api_key"),
        (AdminKeyRequiredError("no"), 403, "admin_key_required"),
        (QueueFullError("full"), 429, "queue_full"),
        (RequestFailedError("nan", code="nan_logits"), 500, "nan_logits"),
        (EngineUnavailableError("loading"), 503, "engine_unavailable"),
        (ShuttingDownError(), 503, "shutting_down"),
    ],
)
def test_the_envelope_has_status_and_code(error: FastInferenceError, status: int, code: str):
    response = error_response(error)
    body = json.loads(response.body)["error"]
    assert (response.status_code, body["status"], body["code"]) == (status, status, code)
    assert set(body) == {"message", "type", "param", "code", "status"}
    assert body["param"] == error.param


@pytest.mark.parametrize("error", [ConfigError("/etc/secret"), RequestFailedError("/etc/secret")])
def test_a_500_does_not_show_its_reason(error: FastInferenceError):
    assert "secret" not in json.dumps(error_body(error))


@pytest.mark.parametrize(("retry_after_s", "header"), [(0.0, "1"), (2.1, "3")])
def test_retry_after_is_in_whole_seconds(retry_after_s: float, header: str):
    error = QueueFullError("full", retry_after_s=retry_after_s)
    assert error_response(error).headers["retry-after"] == header
