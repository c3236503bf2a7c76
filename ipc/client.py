"""The asynchronous client of the engine cores: what a frontend holds.

Callers only ever see `is_ready` and their own streams. Behind it is a `CoreSet` with a channel to each core, and a
policy that says which of them takes a request. Requests whose core is lost or retires go on with another one at once,
where there is one with the same model; else they wait in `Recovery`.
Invariant: a live stream is in the session of exactly one link of one channel, or in `Recovery`.
Next: `core_set.py`, `core_channel.py` (one core), `placement.py` (which one).
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Unpack

from ipc.background_tasks import BackgroundTasks
from ipc.core_calls import Answer, CoreCalls, add_up
from ipc.core_channel import ChannelEvents, CoreChannel, PrepareModel
from ipc.core_directory import CoreDirectory
from ipc.core_set import CoreSet
from ipc.endpoints import CoreAddress
from ipc.errors import ConfigError, EngineUnavailableError, ServerError
from ipc.messages import CallMethod, ClientMetrics, ClientRole, CoreState, Load, RequestId, Welcome
from ipc.placement import Capacity, CoreView, LeastLoaded, Placement
from ipc.recovery import CoreLossPolicy, Recovery, has_same_tokenizer
from ipc.request_options import RequestOptions, new_add
from ipc.request_outputs import Output, RequestOutputs
from ipc.request_stream import RequestStream
from ipc.sampling_params import SamplingParams
from ipc.tokenizer_transfer import fetch_tokenizer, has_tokenizer

log = logging.getLogger(__name__)

_RECOVERY_INTERVAL_S = 0.1
"""How often requests without a core are looked at."""
_OF_ALL_CORES = frozenset(
    {CallMethod.ABORT, CallMethod.CANCEL, CallMethod.RESET_PREFIX_CACHE, CallMethod.DRAIN, CallMethod.RESUME}
)
"""Calls that mean all cores, or requests wherever they are."""
_TOKENIZER_PIECE_TIMEOUT_S = 20.0

__all__ = ["EngineClient", "Output", "RequestStream"]


class MetricsReporter(Protocol):
    """Whoever counts in this process."""

    def report(self) -> ClientMetrics:
        """What has come to each counter since the last report that was sent, and gauges as of now."""
        ...

    def on_reported(self) -> None:
        """The last report was sent."""
        ...


class EngineClient:
    """Connections to the cores that mend themselves; use it from one event loop."""

    def __init__(
        self,
        cores: CoreAddress | CoreDirectory,
        *,
        name: str,
        role: ClientRole,
        on_core_loss: CoreLossPolicy = CoreLossPolicy.RESUME,
        placement: Placement | None = None,
    ) -> None:
        """For one core, or those of a directory, which is followed. `placement` is asked where there are several."""
        self._placement = placement or LeastLoaded()
        self._request_ids = itertools.count(1)
        self._calls = CoreCalls()
        self._recovery = Recovery(on_core_loss)
        self._ready = asyncio.Event()
        self._tasks = BackgroundTasks("the link to the core")
        events = ChannelEvents(
            self._on_core_change,
            self._on_orphans,
            self._on_refused,
            self._calls.on_reply,
            self._on_beat,
            self._prepare_model,
        )
        self._cores = CoreSet(cores, name, role, self._tasks, events, self._on_ready_change)
        self._reporting: CoreChannel | None = None
        """Whose core hears what this process counts."""
        self._is_open = self._is_recovering = False
        self.prepare_model: PrepareModel | None = None
        """Called before the client turns to a core with another model, which waits for it."""
        self.reporter: MetricsReporter | None = None
        """Asked about once a second; what it reports goes to a core that takes requests."""

    # --- what is known of the cores ---

    @property
    def state(self) -> CoreState | None:
        """State of the cores, READY if one is or is just being replaced; None while none is known to live."""
        return self._cores.state

    @property
    def is_ready(self) -> bool:
        """True while requests are accepted."""
        return bool(self._cores.ready) or self._cores.is_turning

    @property
    def welcome(self) -> Welcome | None:
        """What a core of the model that is served last said about itself; stays when the cores are lost."""
        return self._cores.welcome

    @property
    def cores(self) -> list[CoreView]:
        """What is known of each core, those that are not ready too."""
        return [channel.snapshot() for channel in self._cores.channels if channel.is_listed]

    @property
    def load(self) -> Load:
        """Occupancy of the cores that take requests together, as last published."""
        return self._cores.load

    @property
    def capacity(self) -> Capacity:
        """What the cores that take requests can hold together."""
        return self._cores.capacity

    @property
    def detail(self) -> str:
        """Stage of loading, or why a core was lost."""
        return self._cores.detail

    @property
    def beat_age_s(self) -> float:
        """Seconds since the core was last heard; of several, one that works, where one does."""
        return self._cores.first.link.session.beat_age_s if self._cores.first is not None else 0.0

    @property
    def step_age_s(self) -> float:
        """How long the running step of that core takes already, as of its last beat; 0 while it is idle."""
        return self._cores.first.link.session.step_age_s if self._cores.first is not None else 0.0

    @property
    def step_allowance_s(self) -> float:
        """A step that takes longer than this is stuck; 0 where the core does not say."""
        return self._cores.first.link.session.step_allowance_s if self._cores.first is not None else 0.0

    # --- life ---

    async def start(self) -> None:
        """Connect, and keep connected until `close`; returns at once.

        Raises:
            ConfigError: there is no core whose address or keys can be used.
        """
        self._cores.open()
        self._is_open = True

    async def close(self) -> None:
        """Say BYE and let go of the sockets; live streams end in `EngineUnavailableError`. Later calls do nothing."""
        if not self._is_open:
            return
        self._is_open = False
        self._report_metrics()
        error = EngineUnavailableError("The client was closed.")
        self._cores.close(error)
        self._recovery.fail_all(error)
        await self._tasks.close()

    async def wait_ready(self, timeout_s: float | None = None) -> Welcome:
        """Wait until a core accepts requests.

        Raises:
            EngineUnavailableError: none did within the time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self.is_ready:
                    self._ready.clear()
                    await self._ready.wait()
        except TimeoutError as error:
            raise EngineUnavailableError(f"the engine is not ready: {self.detail or 'no answer'}") from error
        assert self.welcome is not None
        return self.welcome

    # --- requests ---

    def submit(
        self,
        prompt_token_ids: Sequence[int],
        sampling_params: SamplingParams,
        *,
        model: Welcome | None = None,
        **options: Unpack[RequestOptions],
    ) -> RequestStream:
        """Hand a request to a core. Its prompt was tokenized for `model`, where that is given.

        Raises:
            EngineUnavailableError: no core is ready, none accepts messages, or there is another model now.
        """
        if not self.is_ready:
            raise EngineUnavailableError(f"The engine is not ready ({self.detail or 'starting'}).")
        if model is not None and self.welcome is not None and not has_same_tokenizer(model, self.welcome):
            raise EngineUnavailableError("Another model has replaced this one.", code="engine_replaced")
        request_id = RequestId(next(self._request_ids))
        stream = RequestStream(new_add(request_id, prompt_token_ids, sampling_params, **options), self.abort)
        if not self._cores.ready:  # the next core is, in a moment
            stream.core = self.welcome
            self._hold([stream])
        elif not self._place(stream):
            raise EngineUnavailableError("The engine accepts no messages at the moment.")
        return stream

    def abort(self, request_ids: Sequence[RequestId], reason: str = "") -> None:
        """Stop these requests; those that have ended are left out."""
        sent = [request_id for request_id in request_ids if not self._recovery.remove(request_id)]
        for channel in self._cores.channels:
            channel.abort(sent, reason)

    def _place(self, request: RequestOutputs) -> bool:
        """Send a request to the core that the policy chooses, or to any other one; False if none takes it."""
        ready = self._cores.ready
        chosen = self._placement.choose(request.add, self._cores.ready_views) if len(ready) > 1 else 0
        return ready[chosen].add(request) or any(channel.add(request) for channel in ready)

    # --- control calls ---

    async def call(
        self, method: CallMethod, arguments: dict[str, int | str] | None = None, timeout_s: float = 5.0
    ) -> Answer:
        """Make a control call. One about requests or caches goes to all cores; the counts in the answers are added up.

        Raises:
            EngineUnavailableError: no answer within the time.
            ServerError: a core answered with an error.
        """
        if method in _OF_ALL_CORES:
            links = [(channel.name, link) for channel in self._cores.channels for link in channel.links]
        else:
            first = self._cores.first
            links = [] if first is None else [(first.name, first.link)]
        result: Answer = {}
        for answer in (await self._calls.call(links, method, arguments or {}, timeout_s)).values():
            add_up(result, answer)
        return result

    async def tokenizer_dir(self, core: Welcome) -> Path:
        """The folder with the tokenizer of a core; where that is on another host, and does not lie in the same place
        here, it is got from a core that has it first.

        Raises:
            ConfigError: it cannot be had.
            EngineUnavailableError: no core gives an answer.
        """
        folder, fingerprint = Path(core.tokenizer_dir), core.tokenizer_fingerprint
        if not self._cores.has_remote or await asyncio.to_thread(has_tokenizer, folder, fingerprint):
            return folder

        async def call(arguments: dict[str, int | str]) -> Answer:
            links = self._cores.links_with_tokenizer(fingerprint)[:1]
            answers = await self._calls.call(links, CallMethod.TOKENIZER, arguments, _TOKENIZER_PIECE_TIMEOUT_S)
            return answers[links[0][0]]

        try:
            return await fetch_tokenizer(call, fingerprint)
        except ServerError as error:
            raise ConfigError(f"the core on the other host does not give its tokenizer: {error.message}") from error

    async def metrics(self, timeout_s: float) -> dict[str, dict[str, int | float]]:
        """By name of the core, all series that it knows; in one of them is what this process has counted up to now.
        A core that is silent is not waited for while others are not.

        Raises:
            EngineUnavailableError: no core answers within the time.
            ServerError: a core answered with an error.
        """
        self._report_metrics()
        listed = [channel for channel in self._cores.channels if channel.is_listed]
        asked = [channel for channel in listed if not channel.is_silent] or listed
        links = [(channel.name, channel.link) for channel in asked]
        answers = await self._calls.call(links, CallMethod.METRICS, {}, timeout_s)
        return {
            name: {key: value for key, value in values.items() if not isinstance(value, str)}
            for name, values in answers.items()
        }

    def _on_beat(self, channel: CoreChannel) -> None:
        if channel is self._reporting_channel():
            self._report_metrics()

    def _report_metrics(self) -> None:
        channel, reporter = self._reporting_channel(), self.reporter
        if reporter is not None and channel is not None and channel.link.send(reporter.report()):
            reporter.on_reported()

    def _reporting_channel(self) -> CoreChannel | None:
        """The core that keeps what this process counts: the same one as long as it lives."""
        before = self._reporting
        if before is None or not before.is_listed or not before.link.session.is_welcomed:
            listed = (channel for channel in self._cores.channels if channel.is_listed)  # others are not asked any more
            self._reporting = next((channel for channel in listed if channel.link.session.is_welcomed), None)
        return self._reporting

    # --- cores that come, go and change ---

    def _on_core_change(self) -> None:
        self._cores.look()

    def _on_ready_change(self) -> None:
        """Other cores than before take requests."""
        ready = self._cores.ready
        self._placement.on_cores_changed([channel.name for channel in ready])
        if ready:
            self._ready.set()
            self._recover()
        else:
            self._ready.clear()

    async def _prepare_model(self, core: Welcome) -> None:
        if self.prepare_model is not None:
            await self.prepare_model(core)

    # --- requests without a core ---

    def _on_orphans(
        self, channel: CoreChannel, requests: list[RequestOutputs], loss: EngineUnavailableError | None
    ) -> None:
        """Take requests that have lost their core; another one gets them at once, where there is one."""
        self._hold(requests, loss)
        if not channel.is_ready:  # else it refused them for now
            self._recover()

    def _on_refused(self, channel: CoreChannel, request: RequestOutputs) -> bool:
        """Bring a new request to a core that has not refused it yet, and does not say that it is full."""
        others = [
            other
            for other in self._cores.ready
            if other is not channel and other.name not in request.core_names and not other.view.load.retry_after_ms
        ]
        others.sort(key=lambda other: other.view.load.num_waiting + other.view.num_sent_since)
        return any(other.add(request) for other in others)

    def _hold(self, requests: list[RequestOutputs], loss: EngineUnavailableError | None = None) -> None:
        self._recovery.hold(requests, loss)
        if self._recovery and not self._is_recovering:
            log.info("%d requests wait for a core", len(self._recovery))
            self._is_recovering = True
            self._tasks.run(self._keep_recovering())

    async def _keep_recovering(self) -> None:
        try:
            while self._recovery:
                await asyncio.sleep(_RECOVERY_INTERVAL_S)
                self._recovery.expire(time.monotonic())
                self._recover()
        finally:
            self._is_recovering = False

    def _recover(self) -> None:
        """Bring the requests to cores that take them."""
        if not self._recovery or not self._cores.ready or self.welcome is None:
            return
        known = [channel.welcome for channel in self._cores.channels if channel.welcome is not None]
        unsent = [request for request in self._recovery.take_for(self.welcome, known) if not self._place(request)]
        if unsent:
            self._recovery.hold(unsent)
