"""What all prompts of an `LLM` have in common: their bodies, their share of the core, and how long they insist.

A job (`generate_job.py`, `embed_job.py`) belongs to one call of a method. `prepare` does all that can be refused
without the engine; `run` asks it, and waits out what it refuses for now. Both run on the loop of `ClientThread`.
Invariant: however `run` ends, no request of it runs on.
"""

import asyncio
import itertools
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from fast_inference.core.engine.client_thread import ClientThread
from fast_inference.core.engine.waiting import answer_of
from fast_inference.offline.sampling_params import Fields
from frontend.access import Caller
from frontend.api_call import ApiCall
from frontend.batch.patience import Patience
from frontend.embedder import num_at_once
from frontend.openai.chat_completions import OpenAIServingChat
from frontend.openai.completions import OpenAIServingCompletion
from frontend.openai.protocol.body import Body
from frontend.request_body import check_fields, validate_body
from frontend.state import ServedModel
from ipc.errors import EngineUnavailableError, FastInferenceError, InvalidRequestError
from ipc.messages import RequestClass

PreparedT = TypeVar("PreparedT")
OutputT = TypeVar("OutputT")
BodyT = TypeVar("BodyT", bound=Body)

_ITEM_FIELDS = frozenset({"prompt", "messages", "input"})
"""Of a body, that hold the item itself; the others are the same for many items."""


class Requester:
    """What the jobs of one `LLM` have in common."""

    def __init__(self, client: ClientThread, request_class: RequestClass) -> None:
        """`request_class` says who goes first in a core that others use too."""
        self.client = client
        self.state = client.state
        self.call = ApiCall(Caller(f"llm:{uuid.uuid4().hex}"), request_class=request_class)
        """Its key is the flow in which this `LLM` shares the core."""
        self.chat = OpenAIServingChat(self.state)
        self.completion = OpenAIServingCompletion(self.state)
        self._ids = itertools.count()
        answer_of(client.submit(self.insist(None, self._model)))

    @property
    def num_at_once(self) -> int:
        """Most requests in the engine: those that its cores of now run at once, and some that wait behind them."""
        return num_at_once(self.state.client.capacity)

    def next_id(self) -> str:
        """Names a prompt."""
        return str(next(self._ids))

    async def body(self, body_type: type[BodyT], fields: Fields) -> tuple[ServedModel, BodyT]:
        """The checked body; without `model` it is for the model itself, and no adapter. Raises as `insist` does."""
        model = await self.insist(None, self._model)
        values = {"model": model.names[0], **fields}
        body = validate_body(body_type, values)
        check_fields(body_type, values)
        return model, body

    async def insist(self, model: ServedModel | None, ask: Callable[[], Awaitable[OutputT]]) -> OutputT:
        """Ask the engine until it answers, for a prompt that was made for this model.

        Raises:
            EngineUnavailableError: there is no engine any more, or it has another model than the prompt was made for.
            FastInferenceError: what would be refused, or fail, again.
        """
        patience = Patience(self.state.client)
        while True:
            try:
                if model is not None:
                    self._check_model(model)
                return await ask()
            except FastInferenceError as error:
                if (end := self.client.end) is not None:
                    raise end from error
                wait_s = patience.wait_s(error)
                if wait_s is None or error.code == "engine_replaced":
                    raise
            await asyncio.sleep(wait_s)

    async def _model(self) -> ServedModel:
        return self.state.model()

    def _check_model(self, model: ServedModel) -> None:
        welcome = self.state.model().welcome
        if welcome.model_fingerprint != model.welcome.model_fingerprint:
            message = f"The engine serves {welcome.model_id} now, no longer {model.welcome.model_id}."
            raise EngineUnavailableError(message, code="engine_replaced")


class PromptJob(ABC, Generic[PreparedT, OutputT]):
    """What a method of an `LLM` does with each of its items."""

    @abstractmethod
    async def prepare(self, item: Any) -> PreparedT:
        """Check and tokenize one item; raises `InvalidRequestError` and what its subclasses say."""

    @abstractmethod
    async def run(self, prepared: PreparedT) -> OutputT:
        """Have it answered; raises as `Requester.insist` does."""

    async def prepare_all(self, items: list[Any]) -> list[PreparedT]:
        """All of a list, before any of them runs; an error names the place of the wrong one."""
        prepared = []
        for index, item in enumerate(items):
            try:
                prepared.append(await self.prepare(item))
            except InvalidRequestError as error:
                is_about_it = index > 0 or error.param in _ITEM_FIELDS
                place = f"item {index}: " if is_about_it and len(items) > 1 else ""
                raise type(error)(place + error.message, param=error.param, code=error.code) from error
            await asyncio.sleep(0)  # what else is on this loop goes on
        return prepared

    async def prepare_and_run(self, item: Any) -> OutputT:
        """Both, for items that are not known before."""
        return await self.run(await self.prepare(item))
