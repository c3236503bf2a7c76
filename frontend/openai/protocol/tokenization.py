"""The bodies of `POST /tokenize` and `POST /detokenize`."""

from pydantic import Field, model_validator

from frontend.openai.inputs import TokenIds
from frontend.openai.protocol.body import Body
from frontend.openai.protocol.messages import Messages
from frontend.openai.protocol.template_fields import TemplateFields
from frontend.openai.protocol.tools import Tools
from ipc.errors import InvalidRequestError

_ONLY_WITH_MESSAGES = ("tools", *TemplateFields.model_fields)


class TokenizeRequest(TemplateFields):
    """Body of `POST /tokenize`: either `prompt` or `messages`."""

    model: str | None = None
    """Name of the served model, which is the default."""
    prompt: str | None = None
    """The text to tokenize."""
    messages: Messages | None = None
    """The conversation to tokenize, in the model's chat template."""
    add_special_tokens: bool | None = None
    """By default true for a prompt and false for messages, whose template writes its own."""
    tools: Tools = Field(default_factory=list)
    """Functions that the model may call, in a conversation."""
    return_token_strs: bool = False
    """Also give the tokens as the vocabulary spells them."""

    @model_validator(mode="after")
    def _check_input(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequestError(
                "Give either prompt or messages.", param="prompt", code="missing_required_parameter"
            )
        if self.messages is None:
            for name in _ONLY_WITH_MESSAGES:
                if name in self.model_fields_set:
                    raise InvalidRequestError(f"{name} needs messages", param=name)
        return self


class DetokenizeRequest(Body):
    """Body of `POST /detokenize`."""

    model: str | None = None
    """Name of the served model, which is the default."""
    tokens: TokenIds
    """The token ids."""
