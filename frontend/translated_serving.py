"""Endpoints of other APIs, served by chat completions: `responses_api` and `anthropic_api`.

A body is translated into one of chat completions and served inside this process; the answer, whole or choice by
choice, is translated back. Invariant: a request fails before its answer begins exactly as the same chat completion
would, with the other API's names of fields. Next: `openai/serving.py`.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from frontend.api_call import ApiCall, call_of
from frontend.chat_translation import ParamName, renamed_params
from frontend.disconnect import run_while_connected
from frontend.errors import json_response
from frontend.openai.answer_writer import choices_of
from frontend.openai.chat_completions import OpenAIServingChat
from frontend.openai.protocol import Body, ChatCompletionRequest
from frontend.openai.serving import INLINE_TOKENS, BegunAnswer
from frontend.openai.streaming import Events, EventStreamResponse, named_event
from frontend.openai.timings import timings_of
from frontend.openai.usage import usage_of
from frontend.request_body import INLINE_BODY_BYTES, check_fields, checked_body, read_body, validate_body
from frontend.state import FrontendState, ServedModel

BodyT = TypeVar("BodyT", bound=Body)
ResultT = TypeVar("ResultT")


class EventTranslator(Protocol):
    """Makes the events of one stream; each has its name in `type`. Usage is chat's."""

    def start(self, usage: dict[str, Any]) -> list[dict[str, Any]]:
        """The events before any output."""

    def choice(self, choice: dict[str, Any]) -> list[dict[str, Any]]:
        """The events of a chunk's choice."""

    def finish(self, usage: dict[str, Any], extra: dict[str, Any]) -> list[dict[str, Any]]:
        """The events after the last choice; `extra` fields say more about the answer (`timings`)."""

    def fail(self, error_body: dict[str, Any]) -> list[dict[str, Any]]:
        """The last event of a stream that cannot go on; takes the body of an error answer."""


class TranslatedServing(ABC, Generic[BodyT]):
    """An endpoint that is a translation onto chat completions."""

    def __init__(self, state: FrontendState, chat: OpenAIServingChat, body_type: type[BodyT]) -> None:
        self._state = state
        self._chat = chat
        self._body_type = body_type

    @abstractmethod
    def chat_values(self, model: ServedModel, body: BodyT) -> dict[str, Any]:
        """The values of the chat completion's body; runs in any thread."""

    @abstractmethod
    def param_name(self, chat_param: str) -> str:
        """This API's name of a field of chat completions."""

    @abstractmethod
    def whole_answer(self, body: BodyT, completion: dict[str, Any]) -> dict[str, Any]:
        """The answer for a whole chat completion, with its `timings` where it has them."""

    @abstractmethod
    def events_of(self, body: BodyT, head: dict[str, Any]) -> EventTranslator:
        """The events of a stream; `head` has the fields that all chunks of the chat completion share."""

    async def serve(self, request: Request) -> Response:
        """Answer one HTTP request; raises as `OpenAIServing.serve` does."""
        model = self._state.model()
        self._state.check_admission()
        body, headers = await read_body(request, self._body_type, self._state.large_body_slot)
        chat_body = await self._translation(model, body).chat_body(request, self._state)
        call = call_of(request)
        with renamed_params(self.param_name):
            if not chat_body.stream:
                answer = await run_while_connected(request, self._chat.whole(call, model, chat_body))
                is_long = chat_body.logprobs and answer.fields["usage"]["completion_tokens"] > INLINE_TOKENS
                headers |= answer.headers
                return await _in_turn(
                    is_long, lambda: json_response(self.whole_answer(body, answer.fields), headers=headers)
                )
            begun = await run_while_connected(request, self._chat.begin(call, model, chat_body, is_kept=True))
        translator = self.events_of(body, begun.head)
        return EventStreamResponse(
            _events(begun, translator, has_logprobs=chat_body.logprobs),
            begun.generation.close,
            headers,
            write_error=lambda error_body: _encoded(translator.fail(error_body)),
        )

    async def answer_to(self, call: ApiCall, values: dict[str, Any]) -> dict[str, Any]:
        """The whole answer to a body, given as the values of its JSON; raises as `OpenAIServing.answer_to` does."""
        model = self._state.model()
        body, _ = checked_body(values, self._body_type, is_strict=self._state.config.strict_params)
        chat_body = self._translation(model, body).chat_body_now()
        with renamed_params(self.param_name):
            completion = await self._chat.complete(call, model, chat_body)
        return self.whole_answer(body, completion)

    def _translation(self, model: ServedModel, body: BodyT) -> "Translation":
        return Translation(lambda: self.chat_values(model, body), self.param_name)


@dataclass(frozen=True, slots=True)
class Translation:
    """The way from a body to one of chat completions."""

    values: Callable[[], dict[str, Any]]
    """Makes the values of the body of a chat completion; its errors have the other API's names already."""
    param_name: ParamName

    async def chat_body(self, request: Request, state: FrontendState) -> ChatCompletionRequest:
        """The checked body of a chat completion; a large one is made in a thread, as `read_body` does it.

        Raises:
            InvalidRequestError: the body cannot be translated, or chat completions refuse it.
        """
        if len(await request.body()) <= INLINE_BODY_BYTES:
            return self.chat_body_now()
        async with state.large_body_slot:
            return await asyncio.to_thread(self.chat_body_now)

    def chat_body_now(self) -> ChatCompletionRequest:
        """The same at once, whatever its size; raises as `chat_body` does."""
        values = self.values()
        with renamed_params(self.param_name):
            body = validate_body(ChatCompletionRequest, values)
            check_fields(ChatCompletionRequest, values)
        return body


async def _events(begun: BegunAnswer, translator: EventTranslator, *, has_logprobs: bool) -> Events:
    answers = begun.generation.answers
    is_long = False  # true at the end of an answer whose events repeat something about many tokens
    yield _encoded(translator.start(usage_of(answers, 1)))
    async with aclosing(begun.generation.deltas()) as deltas:
        async for index, delta in deltas:
            choices = choices_of(begun.writer, index, delta)
            is_long = has_logprobs and delta.finish is not None and delta.num_output_tokens > INLINE_TOKENS
            item = await _in_turn(is_long, partial(_encoded_choices, translator, choices))
            if item:
                yield item
    extra = {"timings": timings_of(answers, 1)} if begun.has_timings else {}
    yield await _in_turn(is_long, lambda: _encoded(translator.finish(usage_of(answers, 1), extra)))


async def _in_turn(is_long: bool, work: Callable[[], ResultT]) -> ResultT:
    """Do it at once, or in a thread where it would keep everybody waiting."""
    return await asyncio.to_thread(work) if is_long else work()


def _encoded_choices(translator: EventTranslator, choices: list[dict[str, Any]]) -> bytes:
    return b"".join(_encoded(translator.choice(choice)) for choice in choices)


def _encoded(events: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(map(named_event, events))
