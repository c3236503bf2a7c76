"""The functions that a chat answer may call: `tools`, `tool_choice`.

Sizes of the schemas are checked by `frontend/openai/tool_calls.py`, which makes a grammar of them.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from frontend.openai.protocol.body import Body

MAX_TOOLS = 128
MAX_DESCRIPTION_CHARS = 16_384

FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class FunctionDefinition(Body):
    """What a function is."""

    name: FunctionName
    description: str | None = Field(None, max_length=MAX_DESCRIPTION_CHARS)
    parameters: dict[str, Any] | None = None
    strict: bool = False


class Tool(Body):
    """A function that may be called."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Body):
    """A function by its name."""

    name: FunctionName


class ToolReference(Body):
    """A tool by the name of its function."""

    type: Literal["function"]
    function: NamedFunction


References = Annotated[list[ToolReference], Field(fail_fast=True, min_length=1, max_length=MAX_TOOLS)]


class AllowedTools(Body):
    """Some of the tools."""

    mode: Literal["auto", "required"]
    tools: References


class AllowedToolsChoice(Body):
    """Only some of the tools may, or one of them must, be called."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | ToolReference | AllowedToolsChoice


def _check_names(tools: list[Tool]) -> list[Tool]:
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise ValueError("the names of the functions must differ")
    return tools


Tools = Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS), AfterValidator(_check_names)]
