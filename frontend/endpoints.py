"""The endpoints that give a whole answer to a body, by their paths and without HTTP: what a batch job runs on.

Each does exactly what the HTTP route of its path does with a body that does not ask for a stream.
"""

from typing import Any, Protocol

from frontend.api_call import ApiCall
from frontend.openai.chat_completions import OpenAIServingChat
from frontend.openai.completions import OpenAIServingCompletion
from frontend.openai.embeddings import OpenAIServingEmbedding
from frontend.openai.scoring import OpenAIServingRerank, OpenAIServingScore
from frontend.responses_api.serving import ServingResponses
from frontend.state import FrontendState

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/score",
    "/v1/rerank",
)


class Endpoint(Protocol):
    """One of them."""

    async def answer_to(self, call: ApiCall, values: dict[str, Any]) -> dict[str, Any]:
        """The whole answer to a body, given as the values of its JSON; raises `FastInferenceError`."""


def endpoints_of(state: FrontendState) -> dict[str, Endpoint]:
    """All of `PATHS`."""
    chat = OpenAIServingChat(state)
    endpoints: tuple[Endpoint, ...] = (
        chat,
        OpenAIServingCompletion(state),
        OpenAIServingEmbedding(state),
        ServingResponses(state, chat),
        OpenAIServingScore(state),
        OpenAIServingRerank(state),
    )
    return dict(zip(PATHS, endpoints, strict=True))
