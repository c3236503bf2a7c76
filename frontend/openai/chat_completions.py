"""`POST /v1/chat/completions`: a conversation in, `n` answers out. The steps are in `serving`."""

from typing import Any

from frontend.input_processor import EngineInput, chat_inputs
from frontend.openai.protocol import ChatCompletionRequest
from frontend.openai.serving import OpenAIServing
from frontend.state import FrontendState, ServedModel


class OpenAIServingChat(OpenAIServing[ChatCompletionRequest]):
    """The chat endpoint."""

    id_prefix = "chatcmpl-"
    object_name = "chat.completion"
    chunk_object_name = "chat.completion.chunk"
    text_path = ("delta", "content")

    def __init__(self, state: FrontendState) -> None:
        super().__init__(state, ChatCompletionRequest)

    async def engine_inputs(self, model: ServedModel, body: ChatCompletionRequest) -> list[EngineInput]:
        """One prompt, `n` times."""
        return await chat_inputs(model, body)

    def first_choice(self) -> dict[str, Any]:
        """The role comes before any text."""
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def whole_choice(self, text: str) -> dict[str, Any]:
        """A message."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def last_choice(self) -> dict[str, Any]:
        """An empty delta."""
        return {"delta": {}}
