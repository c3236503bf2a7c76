"""What a frontend knows: its settings, its links to the cores, and the model behind them. One object per process.

`app` starts and stops it; the endpoints ask `model()` for everything about the model and get an error while there is
none, so that nothing is tokenized for a core that cannot run it. A core with another model is turned to once its
tokenizer is loaded (`model_tokenizers.py`). Invariant: what ends the watching of the core is in `failure`,
and `__main__` ends the process with it.
"""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from frontend.core_watch import STATUS_OF_STATE, CoreWatch
from frontend.draining import Drain
from frontend.metrics.frontend_metrics import FrontendMetrics
from frontend.model_tokenizers import ModelTokenizers
from frontend.tokenizer import FrontendTokenizer
from frontend.tracing import Tracing
from ipc.client import EngineClient
from ipc.config import DEFAULT_MODEL_ALIAS, FrontendConfig, load_section
from ipc.endpoints import RunDir
from ipc.errors import (
    EngineUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
    QueueFullError,
    UnsupportedParameterError,
)
from ipc.messages import CoreState, Welcome

log = logging.getLogger(__name__)

_STALLED_RETRY_S = 5.0
"""A core that is stalled goes on by itself, or is killed and loaded anew."""
_WATCH_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that the core runs, as the API shows it."""

    welcome: Welcome
    tokenizer: FrontendTokenizer
    names: tuple[str, ...]
    """Names under which it is served, the first one first."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids that the model accepts."""
        return self.welcome.vocab_size

    @property
    def max_model_len(self) -> int:
        """Most tokens of one request, prompt and output together."""
        return self.welcome.max_model_len

    @property
    def system_fingerprint(self) -> str:
        """Names weights, tokenizer and dtype in OpenAI's form."""
        return f"fp_{self.welcome.model_fingerprint[:16]}"

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of LoRA adapters, each of which is served beside the model itself."""
        return self.welcome.adapters

    def adapter_of(self, name: str) -> str:
        """The adapter that is meant by a name; empty where it is the model itself."""
        return name if name in self.adapters else ""

    def check_name(self, name: str) -> None:
        """Raise `ModelNotFoundError` unless the model or an adapter is served under this name."""
        if name not in self.names and name not in self.adapters:
            shown = name if len(name) <= 100 and name.isprintable() else "of that name"
            raise ModelNotFoundError(f"The model {shown} does not exist.", param="model")

    def check_can_generate(self) -> None:
        """Raise `UnsupportedParameterError` for a model that gives embeddings only."""
        if not self.welcome.can_generate:
            raise UnsupportedParameterError("This model gives no text, only embeddings.", param="model")

    def check_token_ids(self, token_ids: list[int], param: str) -> None:
        """Raise `InvalidRequestError` unless every id is in the vocabulary."""
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < self.vocab_size:
            raise InvalidRequestError(f"{param}: token ids must be between 0 and {self.vocab_size - 1}", param=param)


class FrontendState:
    """The state of one frontend process."""

    def __init__(
        self,
        config: FrontendConfig,
        client: EngineClient,
        *,
        created_at: int,
        config_file: Path | None = None,
        role: str = "frontend",
        tracing: Tracing | None = None,
    ) -> None:
        """`created_at` (seconds since the epoch) is what /v1/models shows; equal in all frontends of one server.
        `role` is what metrics call this kind of process; empty where the core runs in it, which tells of it itself.

        A later model may have other names: they are read from `config_file`. Without `tracing` nothing is traced.
        """
        self.config = config
        self.client = client
        self.created_at = created_at
        self.tracing = tracing or Tracing()
        self.drain = Drain()
        self.metrics = FrontendMetrics(role)
        self.core_watch = CoreWatch(client)
        self.became_ready = asyncio.Event()
        """Set once the first model can be served."""
        self.failed = asyncio.Event()
        """Set when nothing can be served any more; `failure` says why."""
        self.failure: BaseException | None = None
        self.large_body_slot = asyncio.Semaphore(1)
        """Taken while a large body is parsed."""
        self._config_file = config_file
        self._later_names: dict[str, tuple[str, ...]] = {}
        """By fingerprint, of models that came after the first one."""
        chat_template_file = Path(config.chat_template) if config.chat_template else None
        self._tokenizers = ModelTokenizers(chat_template_file, client.tokenizer_dir)
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect to the core; returns at once.

        Raises:
            RuntimeError: it was started before.
        """
        if self._watcher is not None:
            raise RuntimeError("an application can be served once: make another one")
        self.client.prepare_model = self._prepare_model
        self.client.reporter = self.metrics
        await self.client.start()
        self._watcher = asyncio.create_task(self._watch_core())
        self._watcher.add_done_callback(self._on_watcher_done)

    async def close(self) -> None:
        """Let go of the core."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self.client.close()
        if self.tracing.is_on:
            await asyncio.to_thread(self.tracing.close)

    async def wait_until_ready(self, timeout_s: float | None = None) -> None:
        """Wait until the first model can be served, or the time is over; raises what makes it impossible."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.became_ready, self.failed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=timeout_s)
        finally:
            for wait in waits:
                wait.cancel()
        if self.failure is not None:
            raise self.failure

    @property
    def status(self) -> str:
        """`ready`, or why not: `starting`, `loading`, `draining`, `stalled` or `dead`."""
        if self.drain.is_draining:
            return "draining"
        state = self.client.state
        if state is None:
            return "starting" if self.client.welcome is None else "dead"
        if state is not CoreState.READY:
            return STATUS_OF_STATE[state]
        if self.core_watch.are_all_stalled():
            return "stalled"
        welcome = self.client.welcome
        return "loading" if welcome is None or self._tokenizers.of(welcome) is None else "ready"

    @property
    def model_name(self) -> str:
        """The first name of the model; empty while none is known."""
        welcome = self.client.welcome
        names = self.config.served_model_name if welcome is None else self._names(welcome)
        return names[0] if names else ""

    @property
    def status_file(self) -> Path | None:
        """Where the launcher tells what runs; None where there is none."""
        return None if self._config_file is None else RunDir(self._config_file.parent).status_file

    def model(self) -> ServedModel:
        """The model to serve now.

        Raises:
            EngineUnavailableError: the core does not accept requests, or its tokenizer is not loaded yet.
        """
        welcome = self.client.welcome
        if self.client.is_ready and self.core_watch.are_all_stalled():
            raise EngineUnavailableError("The engine is stalled.", code="stalled", retry_after_s=_STALLED_RETRY_S)
        if not self.client.is_ready or welcome is None:
            detail = f": {self.client.detail}" if self.client.detail else ""
            raise EngineUnavailableError(f"The engine is {self.status}{detail}.")
        tokenizer = self._tokenizers.of(welcome)
        if tokenizer is None:
            is_refused = self._tokenizers.is_refused(welcome)
            problem = "has no tokenizer that can be used" if is_refused else "is loading its tokenizer"
            raise EngineUnavailableError(f"The engine {problem}.")
        return ServedModel(welcome, tokenizer, self._names(welcome))

    def check_admission(self, num_requests: int = 1) -> None:
        """Refuse early what the core would refuse, which itself decides for good; asked before a body is read, so that
        a refusal costs next to nothing, and again with the number of requests in it.

        Raises:
            QueueFullError: by the occupancy that the core last published, not all of the requests have room.
        """
        load, capacity = self.client.load, self.client.capacity
        num_free_places = max(0, capacity.max_num_seqs - load.num_running)
        num_room = num_free_places + capacity.max_queued_requests - load.num_waiting
        has_token_room = load.num_queued_tokens < capacity.max_queued_tokens
        if num_requests > num_room or (load.num_waiting > num_free_places and not has_token_room):
            raise QueueFullError(
                f"{load.num_waiting} requests are waiting and {num_requests} more have no room; try again later.",
                retry_after_s=load.retry_after_ms / 1000,
            )

    def _names(self, welcome: Welcome) -> tuple[str, ...]:
        """The names that the launcher wrote into the configuration; where it has none, the model's id and the alias."""
        configured = self._later_names.get(welcome.model_fingerprint, self.config.served_model_name)
        return configured or tuple(dict.fromkeys((welcome.model_id, DEFAULT_MODEL_ALIAS)))

    async def _watch_core(self) -> None:
        """Load the tokenizer of each core that introduces itself with a new fingerprint.

        Raises:
            ConfigError: the first one cannot be loaded.
        """
        while True:
            self.core_watch.look()
            await self._prepare_model(await self.client.wait_ready(None))
            await asyncio.sleep(_WATCH_INTERVAL_S)

    async def _prepare_model(self, core: Welcome) -> None:
        if await self._tokenizers.load(core):
            if self.became_ready.is_set() and self._config_file is not None:
                names = load_section(self._config_file, FrontendConfig).served_model_name
                self._later_names[core.model_fingerprint] = names
            self.became_ready.set()
            log.info("serving %s", ", ".join((*self._names(core), *core.adapters)))

    def _on_watcher_done(self, watcher: asyncio.Task[None]) -> None:
        if not watcher.cancelled():
            self.failure = watcher.exception()
            self.failed.set()
