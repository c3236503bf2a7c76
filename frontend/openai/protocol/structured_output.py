"""The form that an answer is asked to have: `response_format` and `structured_outputs`.

Sizes are checked by `frontend/openai/grammars.py`, which makes a grammar of them.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from frontend.openai.protocol.body import Body

MAX_CHOICE_STRINGS = 1_000


class JsonSchemaFormat(Body):
    """The schema of a `response_format`."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str = Field("", max_length=4096)
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool = False


class ResponseFormat(Body):
    """OpenAI's way to ask for JSON."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _check(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema must be given with type json_schema, and only then")
        return self


ChoiceStrings = Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_CHOICE_STRINGS)]


class StructuredOutputs(Body):
    """vLLM's way to ask for a form: exactly one of the fields."""

    model_config = ConfigDict(extra="forbid")  # vLLM has options here that would otherwise be ignored

    json_: str | dict[str, Any] | None = Field(None, alias="json")
    json_object: Literal[True] | None = None
    regex: str | None = Field(None, min_length=1)
    choice: ChoiceStrings | None = None
    grammar: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _check(self) -> "StructuredOutputs":
        if len(self.model_fields_set) != 1:
            raise ValueError("give exactly one of json, json_object, regex, choice and grammar")
        return self
