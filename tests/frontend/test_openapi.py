"""The OpenAPI document: complete, and true of what the server really answers."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from frontend.openai.operations import OPERATIONS
from frontend.openapi import install_openapi
from tests.frontend.applications import application
from tests.frontend.test_access import app_with
from tests.processes import CoreProcess, core_process

Document = dict[str, Any]
BODIES = [
    (method, path, body)
    for (method, path), known in OPERATIONS.items()
    for body in known.examples.values()
    if known.body
]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    with core_process(tmp_path_factory.mktemp("run")) as core:
        yield core


def document_of(tmp_path: Path, **settings: Any) -> Document:
    return app_with(tmp_path, **settings).openapi()


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if path not in ("/control", "/me"):  # routes that tests add
                yield method, path, operation


def check(document: Document, schema: Document, value: object) -> None:
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def test_every_route_is_described(tmp_path: Path):
    assert {(method, path) for method, path, _ in operations(document_of(tmp_path))} == set(OPERATIONS)


def test_every_error_has_the_envelope(tmp_path: Path):
    for _, path, operation in operations(document_of(tmp_path, api_key=("k",))):
        errors = {status: answer for status, answer in operation["responses"].items() if status != "200"}
        expected = {"500"} if path.startswith(("/health", "/ping")) else {"401", "500"}
        if "requestBody" in operation:
            expected |= {"400", "404", "413", "415", "429", "503", "504"}
        assert expected <= set(errors), path
        assert "422" not in errors
        for answer in errors.values():
            reference = answer["content"]["application/json"]["schema"]["$ref"]
            is_anthropic = path.startswith("/v1/messages")
            envelope = "AnthropicErrorEnvelope" if is_anthropic else "ErrorEnvelope"
            assert reference == f"#/components/schemas/{envelope}"


def test_streams_are_described_as_events(tmp_path: Path):
    document = document_of(tmp_path)
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream"}


def test_all_references_lead_somewhere(tmp_path: Path):
    document = document_of(tmp_path)
    text = json.dumps(document)
    for reference in set(text.split('"$ref": "#/components/schemas/')[1:]):
        assert reference.partition('"')[0] in document["components"]["schemas"]


def test_keys_are_required_where_they_are(tmp_path: Path):
    for settings, expected in (({}, {}), ({"api_key": ("k",)}, None)):
        document = document_of(tmp_path, **settings)
        assert set(document["components"]["securitySchemes"]) == {"bearer", "x-api-key"}
        for _, path, operation in operations(document):
            is_public = path.startswith(("/health", "/ping"))
            assert (operation["security"] == []) == is_public
            assert ({} in operation["security"]) == (expected is not None and not is_public)


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
def test_each_example_fits_its_schema_and_its_answer_too(core: CoreProcess, method: str, path: str, body: Document):
    async def run() -> tuple[Document, httpx.Response]:
        async with application(core.run_dir, served_model_name=("fast-inference-model",)) as served:
            return served.app.openapi(), await served.http.request(method, path, json=body)

    document, answer = asyncio.run(run())
    operation = document["paths"][path][method]
    check(document, operation["requestBody"]["content"]["application/json"]["schema"], body)
    assert answer.status_code == 200
    assert "x-ignored-params" not in answer.headers
    content = operation["responses"]["200"]["content"]
    if not body.get("stream"):
        check(document, content["application/json"]["schema"], answer.json())
        return
    data = content["text/event-stream"]["itemSchema"]["properties"]["data"]
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    if "anyOf" in data:
        assert events.pop() == "[DONE]"
        data = data["anyOf"][1]
    schema = data["contentSchema"]
    for event in events:
        check(document, schema, json.loads(event))


PROBES = ["/health", "/ping", "/health/live", "/version"]


@pytest.mark.parametrize("path", [*PROBES, "/v1/models", "/v1/models/fake", "/load", "/server_info"])
def test_answers_without_bodies_fit_too(core: CoreProcess, path: str):
    async def run() -> tuple[Document, httpx.Response]:
        async with application(core.run_dir) as served:
            return served.app.openapi(), await served.http.get(path)

    document, answer = asyncio.run(run())
    described = document["paths"][path.replace("/fake", "/{model_id}")]["get"]["responses"][str(answer.status_code)]
    check(document, described["content"]["application/json"]["schema"], answer.json())


def test_null_is_allowed_wherever_a_field_may_be_absent(tmp_path: Path):
    document = document_of(tmp_path)
    body = {"model": "m", "prompt": "a"}
    schema = document["components"]["schemas"]["CompletionRequest"]
    for name in schema["properties"].keys() - body.keys():
        check(document, schema, {**body, name: None})
    with pytest.raises(jsonschema.ValidationError):
        check(document, schema, {**body, "temperature": 2.1})


def test_a_route_that_a_user_adds_keeps_its_own_answers(tmp_path: Path):
    app = app_with(tmp_path)

    @app.get("/mine/{number}")
    async def mine(number: int) -> int:
        return number

    install_openapi(app, needs_key=False)
    responses = app.openapi()["paths"]["/mine/{number}"]["get"]["responses"]
    assert responses["200"]["content"]["application/json"]["schema"]["type"] == "integer"
    assert "422" not in responses
