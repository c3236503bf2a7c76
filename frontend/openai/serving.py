"""What chat and text completions have in common: the steps of a request, whole or streamed.

Body, admission, token ids, engine streams, text, JSON or SSE. Whatever fails before every answer has begun is an HTTP
status for the whole request; later failures of a stream are error events. A stream that has not begun within
`--sse-ping-interval` gets its 200 all the same, and comments from then on. Subclasses say how prompts become token ids,
and with which writer answers become choices. Next: `chat_completions`, `completions`, `answer_writer`.
"""

import asyncio
import logging
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from frontend.api_call import ApiCall, call_of
from frontend.disconnect import run_while_connected
from frontend.errors import json_response
from frontend.generation import Answer, Generation
from frontend.input_processor import EngineInput, check_num_answers
from frontend.openai.answer_writer import AnswerEvents, AnswerWriter
from frontend.openai.grammars import INVALID_GRAMMAR, named_grammar_error
from frontend.openai.protocol import GenerationBody
from frontend.openai.request_options import named_priority_error, request_options, used_tier
from frontend.openai.streaming import Events, EventStreamResponse
from frontend.openai.timings import AnswerTimings, timings_of
from frontend.openai.usage import usage_of
from frontend.output_processor import TextOptions
from frontend.request_body import checked_body, read_body
from frontend.request_limits import check_limits
from frontend.state import FrontendState, ServedModel
from frontend.tracing import AnswerSpan
from ipc.errors import InvalidRequestError
from ipc.request_options import RequestOptions

log = logging.getLogger(__name__)

BodyT = TypeVar("BodyT", bound=GenerationBody)

INLINE_TOKENS = 1_000
"""Answers that say something about more tokens are written in a thread, so that nobody waits for them."""


@dataclass(frozen=True, slots=True)
class BegunAnswer:
    """What a stream is made of."""

    head: dict[str, Any]
    """The fields that all chunks have."""
    generation: Generation
    writer: AnswerWriter
    has_timings: bool
    """The last chunk says how long it took."""

    def events(self, body: GenerationBody) -> Events:
        """The stream itself."""
        answers = self.generation.answers
        events = AnswerEvents(self.writer, answers, body, self.head, has_timings=self.has_timings)
        return _events(self.generation, events, body)


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An answer that is not streamed."""

    fields: dict[str, Any]
    headers: dict[str, str]
    """How long it took (`timings.py`)."""


class OpenAIServing(ABC, Generic[BodyT]):
    """An endpoint that generates text."""

    id_prefix: ClassVar[str]
    object_name: ClassVar[str]
    chunk_object_name: ClassVar[str]
    operation: ClassVar[str]
    """`gen_ai.operation.name` of its spans."""

    def __init__(self, state: FrontendState, body_type: type[BodyT]) -> None:
        self._state = state
        self._body_type = body_type

    @abstractmethod
    async def engine_inputs(self, model: ServedModel, body: BodyT) -> list[EngineInput]:
        """The engine requests of a body: `answers_per_prompt` for each prompt, in order."""

    @abstractmethod
    async def writer(self, model: ServedModel, body: BodyT, inputs: list[EngineInput]) -> AnswerWriter:
        """How the answers to these requests look."""

    def text_options(self, model: ServedModel, body: BodyT, inputs: list[EngineInput]) -> TextOptions:
        """How token ids become text."""
        return TextOptions(
            stop_strings=body.stop_strings,
            include_stop_str_in_output=body.include_stop_str_in_output,
            skip_special_tokens=body.skip_special_tokens,
            min_tokens=body.min_tokens,
            has_tokens=body.num_logprobs is not None or body.return_token_ids,
            is_prompt_only=body.num_max_tokens == 0,
        )

    async def serve(self, request: Request) -> Response:
        """Answer one HTTP request.

        Raises:
            FastInferenceError: whatever fails before there is anything to send.
            ClientDisconnect: the client left before that.
        """
        model = self._state.model()
        self._state.check_admission()
        body, headers = await read_body(request, self._body_type, self._state.large_body_slot)
        call = call_of(request)
        if body.stream:
            begun = await run_while_connected(request, self.begin(call, model, body))
            return EventStreamResponse(begun.events(body), begun.generation.close, headers)
        answer = await run_while_connected(request, self.whole(call, model, body))
        return json_response(answer.fields, headers=headers | answer.headers)

    async def answer_to(self, call: ApiCall, values: dict[str, Any]) -> dict[str, Any]:
        """The whole answer to a body, given as the values of its JSON; raises as `complete` and `read_body` do."""
        model = self._state.model()
        body, _ = checked_body(values, self._body_type, is_strict=self._state.config.strict_params)
        return await self.complete(call, model, body)

    async def events_to(self, call: ApiCall, values: dict[str, Any]) -> Events:
        """The events of the stream that a body asks for; raises as `answer_to` does, before the first one."""
        model = self._state.model()
        body, _ = checked_body(values, self._body_type, is_strict=self._state.config.strict_params)
        begun = await self.begin(call, model, body)
        try:
            async with aclosing(begun.events(body)) as items:
                async for item in items:
                    yield item
        finally:
            begun.generation.close()

    async def complete(self, call: ApiCall, model: ServedModel, body: BodyT) -> dict[str, Any]:
        """The fields of the whole answer to a body; raises `FastInferenceError` as `serve` does."""
        return (await self.whole(call, model, body)).fields

    async def whole(self, call: ApiCall, model: ServedModel, body: BodyT) -> WholeAnswer:
        """The whole answer to a body; raises `FastInferenceError` as `serve` does."""
        model.check_name(body.model)
        model.check_can_generate()
        head = self._head(model, body)
        answers, fields = await self._whole(call, model, body, self.options(call, model, body, head["id"]))
        if self._has_timings(body):
            fields["timings"] = timings_of(answers, body.answers_per_prompt)
        return WholeAnswer({**head, **fields}, AnswerTimings.of(answers).header)

    async def begin(self, call: ApiCall, model: ServedModel, body: BodyT, *, is_kept: bool = False) -> BegunAnswer:
        """An answer to be streamed, once it has begun; raises as `complete` does. The caller closes its generation.

        `is_kept` says that what was sent is kept until the end.
        """
        model.check_name(body.model)
        model.check_can_generate()
        head = self._head(model, body)
        options = self.options(call, model, body, head["id"])
        generation, writer = await self._start(call, model, body, options, is_kept)
        return BegunAnswer(head, generation, writer, self._has_timings(body))

    def options(self, call: ApiCall, model: ServedModel, body: BodyT, answer_id: str) -> RequestOptions:
        """How the engine is to treat the requests of a body; raises `InvalidRequestError` where that is wrong."""
        options = request_options(call, body, answer_id)
        if adapter := model.adapter_of(body.model):
            options["adapter"] = adapter
        return options

    def _span(self, call: ApiCall, body: BodyT, answer_id: str) -> AnswerSpan:
        attributes = {
            "gen_ai.request.max_tokens": body.num_max_tokens,
            "gen_ai.request.temperature": body.temperature,
            "gen_ai.request.top_p": body.top_p,
            "gen_ai.request.n": body.num_answers,
            "gen_ai.request.stream": body.stream,
            "gen_ai.response.id": answer_id,
            "fast_inference.request_id": call.request_id or None,
        }
        return self._state.tracing.begin(self.operation, body.model, attributes, body.answers_per_prompt)

    def _head(self, model: ServedModel, body: BodyT) -> dict[str, Any]:
        """The fields that an answer and all its chunks have."""
        head = {
            "id": self.id_prefix + (body.request_id or uuid.uuid4().hex),
            "object": self.chunk_object_name if body.stream else self.object_name,
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": model.system_fingerprint,
        }
        tier = used_tier(body)
        return head if tier is None else {**head, "service_tier": tier}

    def _has_timings(self, body: BodyT) -> bool:
        return self._state.config.enable_timings if body.timings is None else body.timings

    async def _submit(
        self, call: ApiCall, model: ServedModel, body: BodyT, options: RequestOptions, *, is_kept: bool
    ) -> tuple[Generation, AnswerWriter]:
        check_num_answers(body)
        self._state.check_admission(body.num_answers)
        span = self._span(call, body, options["external_ids"][-1])
        with span.ended_on_error():
            inputs = await self.engine_inputs(model, body)
            check_limits(body, inputs, is_kept=is_kept)
            writer = await self.writer(model, body, inputs)
            text_options = self.text_options(model, body, inputs)
            generation = Generation(self._state.client, model, inputs, text_options, call.beginning, span, **options)
        if call.on_generation is not None:
            call.on_generation(generation)
        return generation, writer

    async def _start(
        self, call: ApiCall, model: ServedModel, body: BodyT, options: RequestOptions, is_kept: bool
    ) -> tuple[Generation, AnswerWriter]:
        """Submit, and wait until every answer has begun, or for as long as a stream may be silent."""
        generation, writer = await self._submit(call, model, body, options, is_kept=is_kept)
        try:
            with _named_errors(body):
                await self._wait_for_first_outputs(generation)
        except BaseException:
            generation.close()
            raise
        return generation, writer

    async def _wait_for_first_outputs(self, generation: Generation) -> None:
        """Raises what an answer failed with meanwhile; nothing is lost when the time is over first."""
        try:
            async with asyncio.timeout(self._state.config.sse_ping_interval or None):
                await generation.prime()
        except TimeoutError:
            log.debug("a stream begins before its answers")

    async def _whole(
        self, call: ApiCall, model: ServedModel, body: BodyT, options: RequestOptions
    ) -> tuple[list[Answer], dict[str, Any]]:
        generation, writer = await self._submit(call, model, body, options, is_kept=True)
        try:
            with _named_errors(body):
                answers = await generation.collect()
        finally:
            generation.close()
        if sum(len(answer.tokens) + len(answer.prompt_logprobs) for answer in answers) > INLINE_TOKENS:
            return answers, await asyncio.to_thread(_whole_answer, writer, answers, body)
        return answers, _whole_answer(writer, answers, body)


def _whole_answer(writer: AnswerWriter, answers: list[Answer], body: GenerationBody) -> dict[str, Any]:
    return {
        **writer.extra_fields(answers),
        "choices": writer.whole_choices(answers),
        "usage": usage_of(answers, body.answers_per_prompt),
    }


async def _events(generation: Generation, events: AnswerEvents, body: GenerationBody) -> Events:
    with _named_errors(body):
        await generation.prime()  # what comes first may tell of the prompt, which the first outputs bring
    is_long = sum(len(answer.prompt_logprobs) for answer in generation.answers) > INLINE_TOKENS
    if begin := await asyncio.to_thread(events.begin) if is_long else events.begin():
        yield begin
    async with aclosing(generation.deltas()) as deltas:
        async for index, delta in deltas:
            if item := events.of(index, delta):
                yield item
    yield events.end()


@contextmanager
def _named_errors(body: GenerationBody) -> Iterator[None]:
    """The core's refusals name its own fields; here they get the names that the body used."""
    try:
        yield
    except InvalidRequestError as error:
        if error.code == INVALID_GRAMMAR:
            raise named_grammar_error(error, body) from error
        if error.param == "priority":
            raise named_priority_error(error, body) from error
        raise
