"""From `response_format` and `structured_outputs` to the grammar that the core enforces.

What is cheap to check is checked here, before anything is tokenized: sizes, depth, number of properties. Whether a
grammar is one shows in the core, which answers with `invalid_grammar`; `named_grammar_error` gives that error the name
of the field that the grammar came from. Invariant: neither costs more than reading the body once.
"""

import re
from typing import Any

import orjson

from frontend.answer_parser.callable_tools import refused_param
from frontend.openai.protocol import ChatCompletionRequest, GenerationBody, ResponseFormat, StructuredOutputs
from ipc.errors import InvalidRequestError
from ipc.structured_output import MAX_SPEC_BYTES, NO_STRUCTURE, GrammarKind, StructuredOutput

MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_PROPERTIES = 1_000

INVALID_GRAMMAR = "invalid_grammar"
"""The core's code for a grammar that it cannot use."""
INVALID_SCHEMA = "invalid_schema"
"""What it is called where the grammar is a JSON schema."""


def grammar_of(body: GenerationBody) -> StructuredOutput:
    """The grammar of a request, or `NO_STRUCTURE`.

    Raises:
        InvalidRequestError: it exceeds a limit; `param` names the field.
    """
    if body.response_format is not None and body.response_format.type != "text":
        return _of_response_format(body.response_format)
    if body.structured_outputs is not None:
        return _of_structured_outputs(body.structured_outputs)
    return NO_STRUCTURE


def named_grammar_error(error: InvalidRequestError, body: GenerationBody) -> InvalidRequestError:
    """The core's refusal of a grammar, under the name that the grammar has in the body."""
    if isinstance(body, ChatCompletionRequest) and body.may_call_tools:
        reason = error.message.split("\n", 1)[0]  # behind it comes the whole grammar, which is not the client's
        reason = re.sub(r"^at \d+\(\d+\): ", "", reason)
        param = refused_param(error.message)
        return InvalidRequestError(f"{param}: {reason}", param=param, code=INVALID_SCHEMA)
    if body.response_format is not None and body.response_format.type != "text":
        return InvalidRequestError(error.message, param="response_format", code=INVALID_SCHEMA)
    if body.structured_outputs is not None and body.structured_outputs.json_ is not None:
        return InvalidRequestError(error.message, param="structured_outputs", code=INVALID_SCHEMA)
    return error


def _of_response_format(wanted: ResponseFormat) -> StructuredOutput:
    if wanted.json_schema is None:
        return StructuredOutput(GrammarKind.JSON_OBJECT)
    kind = GrammarKind.JSON_SCHEMA if wanted.json_schema.strict else GrammarKind.LENIENT_JSON_SCHEMA
    return StructuredOutput(kind, schema_text(wanted.json_schema.schema_, "response_format"))


def _of_structured_outputs(wanted: StructuredOutputs) -> StructuredOutput:
    param = "structured_outputs"
    if wanted.json_ is not None:
        return StructuredOutput(GrammarKind.JSON_SCHEMA, schema_text(wanted.json_, param))
    if wanted.choice is not None:
        if not all(wanted.choice):
            raise InvalidRequestError("a choice must not be empty", param=param)
        return StructuredOutput(GrammarKind.CHOICE, checked_spec(orjson.dumps(wanted.choice), param))
    if wanted.regex is not None:
        return StructuredOutput(GrammarKind.REGEX, checked_spec(wanted.regex.encode(), param))
    if wanted.grammar is not None:
        return StructuredOutput(GrammarKind.LARK, checked_spec(wanted.grammar.encode(), param))
    return StructuredOutput(GrammarKind.JSON_OBJECT)


def schema_text(schema: dict[str, Any] | str, param: str) -> str:
    """A JSON schema as text.

    Raises:
        InvalidRequestError: it is no JSON object (`invalid_schema`), or exceeds a limit.
    """
    if isinstance(schema, str):
        text = checked_spec(schema.encode(), param)
        try:
            schema = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise InvalidRequestError(f"this is not JSON: {error}", param=param, code=INVALID_SCHEMA) from error
        if not isinstance(schema, dict):
            raise InvalidRequestError("a JSON schema must be an object", param=param, code=INVALID_SCHEMA)
        _check_shape(schema, param)
        return text
    _check_shape(schema, param)  # before it is written: the writer has a limit of depth too
    return checked_spec(orjson.dumps(schema), param)


def checked_spec(spec: bytes, param: str) -> str:
    """A grammar as text; raises `InvalidRequestError` for one that is too long."""
    if len(spec) > MAX_SPEC_BYTES:
        raise InvalidRequestError(f"the grammar is longer than {MAX_SPEC_BYTES // 1024} KiB", param=param)
    return spec.decode()


def _check_shape(schema: dict[str, Any], param: str) -> None:
    """The core's limits of depth and properties, which it would find only when the grammar is compiled."""
    num_properties = 0
    nodes: list[tuple[Any, int]] = [(schema, 1)]
    while nodes:
        node, depth = nodes.pop()
        if depth > MAX_SCHEMA_DEPTH:
            message = f"the JSON schema is nested deeper than {MAX_SCHEMA_DEPTH} levels"
            raise InvalidRequestError(message, param=param, code=INVALID_SCHEMA)
        if isinstance(node, dict) and isinstance(node.get("properties"), dict):
            num_properties += len(node["properties"])
        children = node.values() if isinstance(node, dict) else node
        nodes += [(child, depth + 1) for child in children if isinstance(child, dict | list)]
    if num_properties > MAX_SCHEMA_PROPERTIES:
        message = f"the JSON schema has {num_properties} properties, the limit is {MAX_SCHEMA_PROPERTIES}"
        raise InvalidRequestError(message, param=param, code=INVALID_SCHEMA)
