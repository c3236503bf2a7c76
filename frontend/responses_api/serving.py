"""`POST /v1/responses`. The steps are in `frontend/translated_serving.py`."""

import time
from typing import Any

from frontend.openai.chat_completions import OpenAIServingChat
from frontend.responses_api.chat_values import chat_values, param_name
from frontend.responses_api.events import ResponseEvents
from frontend.responses_api.protocol import ResponsesRequest
from frontend.responses_api.response import response_base, whole_response
from frontend.state import FrontendState, ServedModel
from frontend.translated_serving import EventTranslator, TranslatedServing


class ServingResponses(TranslatedServing[ResponsesRequest]):
    """The Responses endpoint."""

    def __init__(self, state: FrontendState, chat: OpenAIServingChat) -> None:
        super().__init__(state, chat, ResponsesRequest)

    def chat_values(self, model: ServedModel, body: ResponsesRequest) -> dict[str, Any]:
        """The values of the chat completion's body."""
        return chat_values(body)

    def param_name(self, chat_param: str) -> str:
        """This API's name of a field of chat completions."""
        return param_name(chat_param)

    def whole_answer(self, body: ResponsesRequest, completion: dict[str, Any]) -> dict[str, Any]:
        """A Response."""
        return whole_response(response_base(body, completion), completion, int(time.time()))

    def events_of(self, body: ResponsesRequest, head: dict[str, Any]) -> EventTranslator:
        """The events of a Response."""
        return ResponseEvents(response_base(body, head))
