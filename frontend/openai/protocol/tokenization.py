"""The bodies of `POST /tokenize` and `POST /detokenize`."""

from frontend.openai.inputs import TokenIds
from frontend.openai.protocol.body import Body
from frontend.openai.protocol.messages import Messages


class TokenizeRequest(Body):
    """Body of `POST /tokenize`: either `prompt` or `messages`."""

    model: str | None = None
    """Name of the served model, which is the default."""
    prompt: str | None = None
    """The text to tokenize."""
    messages: Messages | None = None
    """The conversation to tokenize, in the model's chat template."""
    add_special_tokens: bool | None = None
    """By default true for a prompt and false for messages, whose template writes its own."""
    add_generation_prompt: bool = True
    """End a conversation with what an answer follows."""
    return_token_strs: bool = False
    """Also give the tokens as the vocabulary spells them."""


class DetokenizeRequest(Body):
    """Body of `POST /detokenize`."""

    model: str | None = None
    """Name of the served model, which is the default."""
    tokens: TokenIds
    """The token ids."""
