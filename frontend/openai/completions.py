"""`POST /v1/completions`: one or several prompts in, `n` continuations of each out. The steps are in `serving`."""

from typing import Any

from frontend.input_processor import EngineInput, completion_inputs
from frontend.openai.protocol import CompletionRequest
from frontend.openai.serving import OpenAIServing
from frontend.state import FrontendState, ServedModel


class OpenAIServingCompletion(OpenAIServing[CompletionRequest]):
    """The text completion endpoint; the choices of prompt p are p * n … p * n + n - 1."""

    id_prefix = "cmpl-"
    object_name = "text_completion"
    chunk_object_name = "text_completion"
    text_path = ("text",)

    def __init__(self, state: FrontendState) -> None:
        super().__init__(state, CompletionRequest)

    async def engine_inputs(self, model: ServedModel, body: CompletionRequest) -> list[EngineInput]:
        """Each prompt, `n` times."""
        return await completion_inputs(model, body)

    def first_choice(self) -> None:
        """A text has no role."""
        return

    def whole_choice(self, text: str) -> dict[str, Any]:
        """Plain text."""
        return {"text": text}

    def last_choice(self) -> dict[str, Any]:
        """An empty text."""
        return {"text": ""}
