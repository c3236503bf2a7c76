"""Serves an in-process engine over the OpenAI API: the application of every frontend, in this process.

The application talks to the engine's core over its socket, as a frontend process does. It ends with its server; the
engine stays until it is closed. `create_chat_completion` and `create_completion` answer without HTTP what the
application would answer over it. Next: `frontend/app.py`, `frontend/openai/serving.py`.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson
from fastapi import FastAPI

from fast_inference.core.engine.create import frontend_config
from fast_inference.core.engine.streaming import items_of
from fast_inference.core.engine.universal_engine import UniversalEngine
from fast_inference.settings import served_names
from frontend.api_call import ApiCall
from frontend.app import create_app
from frontend.openai.chat_completions import OpenAIServingChat
from frontend.openai.completions import OpenAIServingCompletion
from frontend.openai.serving import OpenAIServing
from frontend.openai.streaming import DONE
from frontend.state import FrontendState
from frontend.tracing import Tracing
from ipc.client import EngineClient
from ipc.config import DEFAULT_MODEL_ALIAS
from ipc.messages import ClientRole

Json = dict[str, Any]
Chunks = AsyncGenerator[Json, None]

_EVENT_END = b"\n\n"


class OpenAIServingEngine:
    """An engine with an HTTP API; `app` is an ASGI application, to which routes may be added before it is served.

    An application is served once; whoever wants to serve the engine again makes another one.
    """

    def __init__(self, engine: UniversalEngine, model_name: str = DEFAULT_MODEL_ALIAS) -> None:
        """The model is served as `model_name`, and as `fast-inference-model` too.

        Raises:
            ConfigError: one of the engine's adapters has one of these names.
        """
        self.engine = engine
        self.model_name = model_name
        self._names = served_names(
            engine.settings.model_copy(
                update={"served_model_name": tuple(dict.fromkeys((model_name, DEFAULT_MODEL_ALIAS)))}
            )
        )
        client = EngineClient(engine.run_dir.core_socket, name="app", role=ClientRole.FRONTEND)
        config = frontend_config(engine.settings, served_model_name=self._names)
        tracing = Tracing.of(engine.settings)
        state = FrontendState(config, client, created_at=int(time.time()), role="", tracing=tracing)
        self.app: FastAPI = create_app(state)
        self._chat = OpenAIServingChat(engine.client.state)
        self._completion = OpenAIServingCompletion(engine.client.state)

    def serve(self, host: str = "127.0.0.1", port: int = 8000, **options: Any) -> None:
        """Serve until a signal comes; `options` are those of `uvicorn.run`."""
        import uvicorn

        uvicorn.run(self.app, host=host, port=port, **options)

    async def create_chat_completion(self, request: Mapping[str, Any]) -> Json | Chunks:
        """The answer to the body of a `POST /v1/chat/completions`, on any event loop.

        With `"stream": True` its chunks, for `async for`; who stops reading and closes them stops the request. Without
        `model` the body is for the model itself.

        Raises:
            FastInferenceError: as the endpoint does; `frontend/errors.py` knows the statuses.
        """
        return await self._create(self._chat, request)

    async def create_completion(self, request: Mapping[str, Any]) -> Json | Chunks:
        """The same for `POST /v1/completions`."""
        return await self._create(self._completion, request)

    async def _create(self, serving: OpenAIServing[Any], request: Mapping[str, Any]) -> Json | Chunks:
        client, name = self.engine.client, request.get("model", self.model_name)
        own_name = client.state.model().names[0]
        values = {**request, "model": own_name if name in self._names else name}
        if not values.get("stream"):
            answer = await asyncio.wrap_future(client.submit(serving.answer_to(ApiCall(), values)))
            return {**answer, "model": name}
        events = items_of(client, lambda: serving.events_to(ApiCall(), values))
        return _chunks(await anext(events), events, name)


async def _chunks(first: bytes, events: AsyncGenerator[bytes, None], name: Any) -> Chunks:
    """The chunks in the bytes of a stream, the first ones of which have been read already."""
    try:
        for chunk in _chunks_in(first):
            yield {**chunk, "model": name}
        async for data in events:
            for chunk in _chunks_in(data):
                yield {**chunk, "model": name}
    finally:
        await events.aclose()


def _chunks_in(data: bytes) -> list[Json]:
    parts = data.removesuffix(DONE).split(_EVENT_END)
    return [orjson.loads(part.removeprefix(b"data: ")) for part in parts if part]
