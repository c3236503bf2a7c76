"""`POST /v1/messages` and `POST /v1/messages/count_tokens`. The steps are in `frontend/translated_serving.py`.

Errors leave here as everywhere; `error_envelope` gives them Anthropic's form.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from frontend.anthropic_api.chat_values import chat_values, param_name, prompt_values
from frontend.anthropic_api.events import MessageEvents
from frontend.anthropic_api.message import message_id_of, whole_message
from frontend.anthropic_api.protocol import CountTokensRequest, MessagesRequest
from frontend.chat_translation import renamed_params
from frontend.errors import json_response
from frontend.openai.chat_completions import OpenAIServingChat
from frontend.openai.tokenization import OpenAIServingTokenization
from frontend.request_body import read_body
from frontend.state import FrontendState, ServedModel
from frontend.translated_serving import EventTranslator, TranslatedServing, Translation


class ServingMessages(TranslatedServing[MessagesRequest]):
    """The Messages endpoint."""

    def __init__(self, state: FrontendState, chat: OpenAIServingChat) -> None:
        super().__init__(state, chat, MessagesRequest)

    def chat_values(self, model: ServedModel, body: MessagesRequest) -> dict[str, Any]:
        """The values of the chat completion's body."""
        return chat_values(body, can_think=model.tokenizer.chat_template.has_thinking_switch)

    def param_name(self, chat_param: str) -> str:
        """This API's name of a field of chat completions."""
        return param_name(chat_param)

    def whole_answer(self, body: MessagesRequest, completion: dict[str, Any]) -> dict[str, Any]:
        """A Message."""
        return whole_message(completion)

    def events_of(self, body: MessagesRequest, head: dict[str, Any]) -> EventTranslator:
        """The events of a Message."""
        return MessageEvents(message_id_of(head["id"]), head["model"])


class ServingCountTokens:
    """Counts the tokens of a prompt; nothing reaches the engine."""

    def __init__(self, state: FrontendState, tokenization: OpenAIServingTokenization) -> None:
        self._state = state
        self._tokenization = tokenization

    async def serve(self, request: Request) -> Response:
        """Answer one HTTP request.

        Raises:
            TokenizerBusyError: too many are waiting.
            FastInferenceError: the body is wrong, or there is no model.
        """
        model = self._state.model()
        async with self._tokenization.slot(request):
            body, headers = await read_body(request, CountTokensRequest, self._state.large_body_slot)
            model.check_name(body.model)
            can_think = model.tokenizer.chat_template.has_thinking_switch
            translation = Translation(lambda: prompt_values(body, can_think=can_think), param_name)
            chat_body = await translation.chat_body(request, self._state)
            with renamed_params(param_name):
                ids = await self._tokenization.chat_token_ids(model, chat_body)
        return json_response({"input_tokens": len(ids)}, headers=headers)
