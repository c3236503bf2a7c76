"""What chat and text completions have in common: the steps of a request, whole or streamed.

Body, admission, token ids, engine streams, text, JSON or SSE. Whatever fails before every answer has begun is an HTTP
status for the whole request; later failures of a stream are error events. A stream that has not begun within
`--sse-ping-interval` gets its 200 all the same, and comments from then on. Subclasses say how a choice looks.
Next: `chat_completions`, `completions`.
"""

import asyncio
import logging
import time
import uuid
from abc import ABC, abstractmethod
from contextlib import aclosing
from typing import Any, ClassVar, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from frontend.access import Caller, caller_of
from frontend.disconnect import run_while_connected
from frontend.errors import json_response
from frontend.generation import Answer, Generation
from frontend.input_processor import EngineInput, check_num_answers
from frontend.openai.protocol import GenerationBody
from frontend.openai.streaming import DONE, ChunkEncoder, Events, EventStreamResponse
from frontend.openai.usage import usage_of
from frontend.output_processor import Finish, TextOptions
from frontend.request_body import read_body
from frontend.state import FrontendState, ServedModel

log = logging.getLogger(__name__)

BodyT = TypeVar("BodyT", bound=GenerationBody)


class OpenAIServing(ABC, Generic[BodyT]):
    """An endpoint that generates text."""

    id_prefix: ClassVar[str]
    object_name: ClassVar[str]
    chunk_object_name: ClassVar[str]
    text_path: ClassVar[tuple[str, ...]]
    """Where a streamed choice keeps its text."""

    def __init__(self, state: FrontendState, body_type: type[BodyT]) -> None:
        self._state = state
        self._body_type = body_type

    @abstractmethod
    async def engine_inputs(self, model: ServedModel, body: BodyT) -> list[EngineInput]:
        """The engine requests of a body: `n` for each prompt, in order."""

    @abstractmethod
    def first_choice(self) -> dict[str, Any] | None:
        """The choice that opens a stream, or None where there is nothing to say before the text."""

    @abstractmethod
    def whole_choice(self, text: str) -> dict[str, Any]:
        """The text's place in a whole answer."""

    @abstractmethod
    def last_choice(self) -> dict[str, Any]:
        """The empty text of the chunk that ends a streamed choice."""

    async def serve(self, request: Request) -> Response:
        """Answer one HTTP request.

        Raises:
            FastInferenceError: whatever fails before there is anything to send.
            ClientDisconnect: the client left before that.
        """
        model = self._state.model()
        body, headers = await read_body(request, self._body_type, self._state.large_body_slot)
        model.check_name(body.model)
        head = {
            "id": self.id_prefix + uuid.uuid4().hex,
            "object": self.chunk_object_name if body.stream else self.object_name,
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": model.system_fingerprint,
        }
        caller = caller_of(request)
        if body.stream:
            generation = await run_while_connected(request, self._start(model, body, caller))
            return EventStreamResponse(self._events(generation, body, head), generation.close, headers)
        whole = await run_while_connected(request, self._whole(model, body, caller))
        return json_response({**head, **whole}, headers=headers)

    async def _submit(self, model: ServedModel, body: BodyT, caller: Caller) -> Generation:
        check_num_answers(body)
        self._state.check_admission(model, body.num_answers)
        inputs = await self.engine_inputs(model, body)
        options = TextOptions(
            stop_strings=body.stop_strings,
            include_stop_str_in_output=body.include_stop_str_in_output,
            skip_special_tokens=body.skip_special_tokens,
            min_tokens=body.min_tokens,
        )
        return Generation(
            self._state.client,
            model,
            inputs,
            options,
            priority=body.priority,
            flow=caller.flow(body.user),
            cache_salt=caller.cache_salt(body.cache_salt),
        )

    async def _start(self, model: ServedModel, body: BodyT, caller: Caller) -> Generation:
        """Submit, and wait until every answer has begun, or for as long as a stream may be silent."""
        generation = await self._submit(model, body, caller)
        try:
            await self._wait_for_first_outputs(generation)
        except BaseException:
            generation.close()
            raise
        return generation

    async def _wait_for_first_outputs(self, generation: Generation) -> None:
        """Raises what an answer failed with meanwhile; nothing is lost when the time is over first."""
        try:
            async with asyncio.timeout(self._state.config.sse_ping_interval or None):
                await generation.prime()
        except TimeoutError:
            log.debug("a stream begins before its answers")

    async def _whole(self, model: ServedModel, body: BodyT, caller: Caller) -> dict[str, Any]:
        generation = await self._submit(model, body, caller)
        try:
            answers = await generation.collect()
        finally:
            generation.close()
        return {"choices": [self._choice_of(answer) for answer in answers], "usage": usage_of(answers, body.n)}

    def _choice_of(self, answer: Answer) -> dict[str, Any]:
        text = "".join(answer.texts)
        return {"index": answer.index, **self.whole_choice(text), "logprobs": None, **_finish_fields(answer.finish)}

    async def _events(self, generation: Generation, body: BodyT, head: dict[str, Any]) -> Events:
        answers = generation.answers
        has_usage = body.stream_options is not None and body.stream_options.include_usage
        is_continuous = body.stream_options is not None and body.stream_options.continuous_usage_stats
        encoder = ChunkEncoder(head, self.text_path, has_usage=has_usage or is_continuous)
        first_choice = self.first_choice()
        if first_choice is not None:
            yield b"".join(encoder.choice(answer.index, first_choice) for answer in answers)
        async with aclosing(generation.deltas()) as deltas:
            async for index, delta in deltas:
                usage = usage_of(answers, body.n) if is_continuous else None
                item = encoder.text(index, delta.text, usage) if delta.text else b""
                if delta.finish is not None:
                    choice = {**self.last_choice(), "logprobs": None, **_finish_fields(delta.finish)}
                    item += encoder.choice(index, choice, usage)
                if item:
                    yield item
        yield (encoder.usage(usage_of(answers, body.n)) if has_usage else b"") + DONE


def _finish_fields(finish: Finish | None) -> dict[str, Any]:
    assert finish is not None
    return {"finish_reason": finish.reason, "stop_reason": finish.stop_reason}
