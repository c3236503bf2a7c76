"""What embeddings, scores and rankings have in common: the steps of a request whose texts become vectors.

Body, admission, vectors (`frontend/embedder.py`), answer. The time limit holds for the whole body, however many
requests of the engine it takes. Subclasses say which texts a body has and what their vectors mean: `embeddings.py`,
`scoring.py`.
"""

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from frontend.api_call import ApiCall, call_of
from frontend.disconnect import run_while_connected
from frontend.embedder import Embedder, num_at_once
from frontend.errors import json_response
from frontend.openai.protocol import PoolingBody
from frontend.openai.request_options import asked_timeout_s
from frontend.request_body import checked_body, read_body
from frontend.state import FrontendState, ServedModel
from ipc.errors import RequestTimeoutError, UnsupportedParameterError

BodyT = TypeVar("BodyT", bound=PoolingBody)
ResultT = TypeVar("ResultT")

INLINE_VALUES = 50_000
"""What takes more numbers is done in a thread, so that nobody waits for it."""


class OpenAIServingPooling(ABC, Generic[BodyT]):
    """An endpoint that makes vectors."""

    id_prefix: ClassVar[str]

    def __init__(self, state: FrontendState, body_type: type[BodyT]) -> None:
        self._state = state
        self._body_type = body_type

    @abstractmethod
    def num_texts(self, body: BodyT) -> int:
        """How many texts the body has."""

    @abstractmethod
    def check(self, model: ServedModel, body: BodyT) -> None:
        """Refuse what this model cannot do, before anything is tokenized; raises `InvalidRequestError`."""

    @abstractmethod
    async def answer(self, body: BodyT, embedder: Embedder) -> dict[str, Any]:
        """The body of the answer, without its id."""

    async def serve(self, request: Request) -> Response:
        """Answer one HTTP request.

        Raises:
            UnsupportedParameterError: the model gives no vectors.
            RequestTimeoutError: the body's time is over.
            FastInferenceError: the body is wrong, or the engine failed.
            ClientDisconnect: the client left.
        """
        model = self._state.model()
        self._state.check_admission()
        body, headers = await read_body(request, self._body_type, self._state.large_body_slot)
        answer = await run_while_connected(request, self.complete(call_of(request), model, body))
        size = model.welcome.embedding_size * self.num_texts(body)
        return await unhurried(size, lambda: json_response(answer, headers=headers))

    async def answer_to(self, call: ApiCall, values: dict[str, Any]) -> dict[str, Any]:
        """The whole answer to a body, given as the values of its JSON; raises as `complete` and `read_body` do."""
        model = self._state.model()
        body, _ = checked_body(values, self._body_type, is_strict=self._state.config.strict_params)
        return await self.complete(call, model, body)

    async def complete(self, call: ApiCall, model: ServedModel, body: BodyT) -> dict[str, Any]:
        """The whole answer to a body; raises `FastInferenceError` as `serve` does."""
        model.check_name(body.model)
        if model.welcome.embedding_size == 0:
            raise UnsupportedParameterError("This model gives no embeddings.", param="model")
        self.check(model, body)
        timeout_s = asked_timeout_s(body.timeout, call)
        self._state.check_admission(min(self.num_texts(body), num_at_once(self._state.client.capacity)))
        answer_id = self.id_prefix + (body.request_id or uuid.uuid4().hex)
        names = {"gen_ai.response.id": answer_id, "fast_inference.request_id": call.request_id or None}
        span = self._state.tracing.begin("embeddings", body.model, names)
        with span.ended_on_error():
            options = call.options(answer_id)
            embedder = Embedder(self._state.client, model, body, call.caller, options, span.traceparent)
            answer = await self._in_time(body, embedder, timeout_s)
        span.end_vectors(embedder.num_tokens)
        return {"id": answer_id, **answer}

    async def _in_time(self, body: BodyT, embedder: Embedder, timeout_s: float | None) -> dict[str, Any]:
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await self.answer(body, embedder)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise RequestTimeoutError("The request did not end in the time that it had.") from error


async def unhurried(num_values: int, work: Callable[[], ResultT]) -> ResultT:
    """Do it at once, or in a thread where it handles many numbers."""
    return await asyncio.to_thread(work) if num_values > INLINE_VALUES else work()


def pooling_usage(embedder: Embedder) -> dict[str, int]:
    """Tokens of all texts of the body."""
    return {"prompt_tokens": embedder.num_tokens, "total_tokens": embedder.num_tokens}
