"""The body of `POST /v1/chat/completions`."""

from typing import Literal

from pydantic import Field, model_validator

from frontend.openai.protocol.generation import MAX_INT32, GenerationBody
from frontend.openai.protocol.messages import Messages
from frontend.openai.protocol.template_fields import TemplateFields
from frontend.openai.protocol.tools import AllowedToolsChoice, ToolChoice, ToolReference, Tools
from ipc.errors import InvalidRequestError
from ipc.sampling_params import MAX_LOGPROBS


class ChatCompletionRequest(TemplateFields, GenerationBody):
    """Body of `POST /v1/chat/completions`."""

    messages: Messages
    """The conversation."""
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_INT32)
    """As `max_tokens`, and goes before it."""
    logprobs: bool = False
    """Report the log-probability of each token of the answer."""
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    """Also report this many best tokens at each position; needs `logprobs`."""
    tools: Tools = Field(default_factory=list)
    """Functions that the answer may call."""
    tool_choice: ToolChoice | None = None
    """`none`, `auto`, `required`, one function by name, or `allowed_tools`; `auto` where there are tools."""
    parallel_tool_calls: bool = True
    """An answer may have more than one call."""
    include_reasoning: bool = True
    """Show the reasoning of models that think (`reasoning_content`)."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    """How long the model thinks; refused where its chat template cannot be told."""
    add_special_tokens: bool = False
    """Add the tokenizer's special tokens to those of the template."""

    @model_validator(mode="after")
    def _check_logprobs(self) -> "ChatCompletionRequest":
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs", param="top_logprobs")
        return self

    @model_validator(mode="after")
    def _check_tool_choice(self) -> "ChatCompletionRequest":
        choice, names = self.tool_choice, {tool.function.name for tool in self.tools}
        wanted: set[str] = set()
        if isinstance(choice, ToolReference):
            wanted = {choice.function.name}
        elif isinstance(choice, AllowedToolsChoice):
            wanted = {item.function.name for item in choice.allowed_tools.tools}
        if not self.tools and (wanted or choice == "required"):
            raise InvalidRequestError("tool_choice needs tools", param="tool_choice")
        if wanted - names:
            raise InvalidRequestError("tool_choice names a function that is not in tools", param="tool_choice")
        if self.may_call_tools and self.structured_outputs is not None:
            raise InvalidRequestError("structured_outputs cannot go with tools", param="structured_outputs")
        return self

    @property
    def may_call_tools(self) -> bool:
        """True unless there are no tools, or none is to be called."""
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def num_max_tokens(self) -> int | None:
        """`max_completion_tokens`, or else `max_tokens`."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """`top_logprobs` where `logprobs` are asked for."""
        return self.top_logprobs if self.logprobs else None
