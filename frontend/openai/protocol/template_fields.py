"""The fields that say how a conversation becomes text, which chat completions and /tokenize have in common.

`chat_template` itself is refused here in every form. Which of `chat_template_kwargs` there are, the template knows:
`frontend/chat_template.py` checks their names.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, SkipValidation, model_validator
from pydantic_core import PydanticCustomError

from frontend.openai.protocol.body import Body
from frontend.render_options import RenderOptions
from ipc.errors import InvalidRequestError

MAX_TEMPLATE_KWARGS = 32
MAX_TEMPLATE_KWARGS_SIZE = 16_384
"""Most characters in all, where everything that is no text counts for 8."""
MAX_TEMPLATE_KWARGS_DEPTH = 8
MAX_DOCUMENTS = 1024


def _check_kwargs(kwargs: Any) -> dict[str, Any]:
    if not isinstance(kwargs, dict):
        raise PydanticCustomError("dict_type", "must be an object")
    if len(kwargs) > MAX_TEMPLATE_KWARGS:
        raise ValueError(f"at most {MAX_TEMPLATE_KWARGS} variables")
    size = 0
    nodes: list[tuple[Any, int]] = [(kwargs, 1)]
    while nodes:
        node, depth = nodes.pop()
        size += len(node) if isinstance(node, str) else 8
        if depth > MAX_TEMPLATE_KWARGS_DEPTH and isinstance(node, dict | list):
            raise ValueError(f"must not be nested deeper than {MAX_TEMPLATE_KWARGS_DEPTH} levels")
        if size > MAX_TEMPLATE_KWARGS_SIZE:
            raise ValueError(f"must not be larger than {MAX_TEMPLATE_KWARGS_SIZE} characters")
        if isinstance(node, dict):
            nodes += [(name, depth) for name in node]
            node = list(node.values())
        if isinstance(node, list):
            nodes += [(item, depth + 1) for item in node]
    return {name: value for name, value in kwargs.items() if value is not None}


def _check_documents(documents: Any) -> list[dict[str, Any]]:
    if not isinstance(documents, list) or not all(isinstance(item, dict) for item in documents):
        raise PydanticCustomError("list_type", "must be a list of objects")
    if len(documents) > MAX_DOCUMENTS:
        raise ValueError(f"at most {MAX_DOCUMENTS} documents")
    return documents


class TemplateFields(Body):
    """How the conversation is written."""

    add_generation_prompt: bool = True
    """End the conversation with what an answer follows; by default not with `continue_final_message`."""
    continue_final_message: bool = False
    """Leave the last message open, so that the answer goes on in it."""
    chat_template_kwargs: Annotated[dict[str, Any], SkipValidation, AfterValidator(_check_kwargs)] = Field(
        default_factory=dict
    )
    """Values for variables that the model's chat template reads; other names are refused."""
    documents: Annotated[list[dict[str, Any]], SkipValidation, AfterValidator(_check_documents)] = Field(
        default_factory=list
    )
    """Documents for the template; refused where it reads none."""

    @model_validator(mode="after")
    def _check_ending(self) -> "TemplateFields":
        has_prompt = "add_generation_prompt" in self.model_fields_set and self.add_generation_prompt
        if self.continue_final_message and has_prompt:
            raise InvalidRequestError(
                "give either continue_final_message or add_generation_prompt", param="continue_final_message"
            )
        return self

    @property
    def render_options(self) -> RenderOptions:
        """The options of a rendering, without tools."""
        return RenderOptions(
            documents=self.documents or None,
            add_generation_prompt=self.add_generation_prompt and not self.continue_final_message,
            continue_final_message=self.continue_final_message,
            template_kwargs=self.chat_template_kwargs,
        )
