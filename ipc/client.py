"""The asynchronous client of the engine core: what a frontend holds.

Callers only ever see `is_ready` and their own streams. Behind it is one `CoreLink` to the core that takes requests, and
one to each core that retires: it finishes what it runs while a new one has taken its place. Requests whose core is lost
wait in `Recovery` and go on with the next one.
Invariant: a live stream is in the session of exactly one link, or in `Recovery`. Next: `core_link.py`.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol, Unpack

import zmq

from ipc.core_link import CoreLink
from ipc.endpoints import CoreAddress, RemoteCore
from ipc.errors import ConfigError, EngineUnavailableError, ServerError
from ipc.messages import Call, CallMethod, ClientMetrics, ClientRole, CoreState, Load, Reply, RequestId, Welcome
from ipc.recovery import CoreLossPolicy, Recovery, has_same_tokenizer
from ipc.request_options import RequestOptions, new_add
from ipc.request_outputs import Output, RequestOutputs
from ipc.request_stream import RequestStream
from ipc.sampling_params import SamplingParams
from ipc.session import Session, own_hello
from ipc.tokenizer_transfer import fetch_tokenizer, has_tokenizer

log = logging.getLogger(__name__)

_RECOVERY_INTERVAL_S = 0.1
"""How often requests without a core are looked at."""
_OF_ALL_CORES = frozenset({CallMethod.ABORT, CallMethod.CANCEL})
"""Calls that mean requests wherever they are."""
_TOKENIZER_PIECE_TIMEOUT_S = 20.0

__all__ = ["EngineClient", "Output", "RequestStream"]

Answer = dict[str, int | float | str]
PrepareModel = Callable[[Welcome], Awaitable[None]]


class MetricsReporter(Protocol):
    """Whoever counts in this process."""

    def report(self) -> ClientMetrics:
        """What has come to each counter since the last report that was sent, and gauges as of now."""
        ...

    def on_reported(self) -> None:
        """The last report was sent."""
        ...


class EngineClient:
    """A connection to the core that mends itself; use it from one event loop."""

    def __init__(
        self,
        address: CoreAddress,
        *,
        name: str,
        role: ClientRole,
        on_core_loss: CoreLossPolicy = CoreLossPolicy.RESUME,
    ) -> None:
        self._address = address
        self._name = name
        self._role = role
        self._request_ids = itertools.count(1)
        self._call_ids = itertools.count(1)
        self._calls: dict[int, asyncio.Queue[Reply]] = {}
        self._recovery = Recovery(on_core_loss)
        self._ready = asyncio.Event()
        self._unlinked = Session()
        self._link: CoreLink | None = None
        """To the core that takes requests."""
        self._next_link: CoreLink | None = None
        """To the core that takes them from now on, until it is known to be ready."""
        self._retired_links: list[CoreLink] = []
        """To cores that only finish what they run."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._farewells: set[asyncio.Task[None]] = set()
        """Those that close a link; they are never cancelled."""
        self._is_recovering = False
        self._is_preparing = False
        self.prepare_model: PrepareModel | None = None
        """Called before the client turns to a core with another model, which waits for it."""
        self.reporter: MetricsReporter | None = None
        """Asked about once a second; what it reports goes to the core that takes requests."""

    # --- what is known of the core ---

    @property
    def state(self) -> CoreState | None:
        """State of the core; None while none is known to live. A core that another one replaces counts as READY."""
        state = self._session.state
        return CoreState.READY if state is CoreState.RETIRING else state

    @property
    def is_ready(self) -> bool:
        """True while requests are accepted."""
        return self._session.is_ready or self._session.state is CoreState.RETIRING

    @property
    def welcome(self) -> Welcome | None:
        """What the core last said about itself; stays when the core is lost."""
        return self._session.welcome

    @property
    def load(self) -> Load:
        """Occupancy of the core, as last published."""
        return self._session.load

    @property
    def detail(self) -> str:
        """Stage of loading, or why the core was lost."""
        return self._session.detail

    @property
    def beat_age_s(self) -> float:
        """Seconds since the core was last heard."""
        return self._session.beat_age_s

    @property
    def step_age_s(self) -> float:
        """How long the core's running step takes already, as of its last beat; 0 while it is idle."""
        return self._session.step_age_s

    @property
    def step_allowance_s(self) -> float:
        """A step that takes longer than this is stuck; 0 where the core does not say."""
        return self._session.step_allowance_s

    @property
    def _session(self) -> Session:
        return self._link.session if self._link is not None else self._unlinked

    @property
    def _links(self) -> list[CoreLink]:
        return [link for link in (self._link, self._next_link, *self._retired_links) if link is not None]

    # --- life ---

    async def start(self) -> None:
        """Connect, and keep connected until `close`; returns at once."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._link = self._open_link()

    async def close(self) -> None:
        """Say BYE and let go of the sockets; live streams end in `EngineUnavailableError`. Later calls do nothing."""
        if self._link is None:
            return
        self._report_metrics(self._link)
        links, error = self._links, EngineUnavailableError("The client was closed.")
        self._link, self._next_link, self._retired_links = None, None, []
        for link in links:
            await link.close()
            link.session.fail_all(error)
        self._recovery.fail_all(error)
        for task in self._tasks - self._farewells:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._context.term()  # would wait for ever for a socket that is not closed

    async def wait_ready(self, timeout_s: float | None = None) -> Welcome:
        """Wait until the core accepts requests.

        Raises:
            EngineUnavailableError: it did not within the time.
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
        """Hand a request to the core. Its prompt was tokenized for `model`, where that is given.

        Raises:
            EngineUnavailableError: the core is not ready, its socket accepts nothing, or it has another model now.
        """
        if not self.is_ready or self._link is None:
            raise EngineUnavailableError(f"The engine is not ready ({self.detail or 'starting'}).")
        if model is not None and self.welcome is not None and not has_same_tokenizer(model, self.welcome):
            raise EngineUnavailableError("Another model has replaced this one.", code="engine_replaced")
        request_id = RequestId(next(self._request_ids))
        stream = RequestStream(new_add(request_id, prompt_token_ids, sampling_params, **options), self.abort)
        if not self._session.is_ready:  # the next core is, in a moment
            stream.core = self.welcome
            self._hold([stream])
        elif not self._link.add(stream):
            raise EngineUnavailableError("The engine accepts no messages at the moment.")
        return stream

    def abort(self, request_ids: Sequence[RequestId], reason: str = "") -> None:
        """Stop these requests; those that have ended are left out."""
        sent = [request_id for request_id in request_ids if not self._recovery.remove(request_id)]
        for link in self._links:
            link.abort(sent, reason)

    async def call(
        self, method: CallMethod, arguments: dict[str, int | str] | None = None, timeout_s: float = 5.0
    ) -> dict[str, int | float | str]:
        """Make a control call. One about requests goes to all cores; the counts in the answers are added up.

        Raises:
            EngineUnavailableError: no answer within the time.
            ServerError: the core answered with an error.
        """
        links = self._links if method in _OF_ALL_CORES or self._link is None else [self._link]
        return await self._call(links, method, arguments or {}, timeout_s)

    async def _call(
        self, links: Sequence[CoreLink], method: CallMethod, arguments: dict[str, int | str], timeout_s: float
    ) -> Answer:
        call_id = next(self._call_ids)
        answers = self._calls[call_id] = asyncio.Queue()
        result: Answer = {}
        try:
            calling = Call(call_id, method, arguments)
            num_sent = sum(link.session.is_welcomed and link.send(calling) for link in links)
            if not num_sent:
                raise EngineUnavailableError("The engine accepts no messages at the moment.")
            async with asyncio.timeout(timeout_s):
                for _ in range(num_sent):
                    _add_up(result, await answers.get())
        except TimeoutError as error:
            raise EngineUnavailableError(f"no answer to {method.name} in {timeout_s} s") from error
        finally:
            del self._calls[call_id]
        return result

    async def tokenizer_dir(self, core: Welcome) -> Path:
        """The folder with the tokenizer of a core; where that is on another host, and does not lie in the same place
        here, it is got from there first.

        Raises:
            ConfigError: it cannot be had.
            EngineUnavailableError: the core gives no answer.
        """
        folder = Path(core.tokenizer_dir)
        if not isinstance(self._address, RemoteCore) or await asyncio.to_thread(
            has_tokenizer, folder, core.tokenizer_fingerprint
        ):
            return folder

        async def call(arguments: dict[str, int | str]) -> Answer:
            links = [link for link in self._links if link.session.epoch == core.epoch]
            return await self._call(links[:1], CallMethod.TOKENIZER, arguments, _TOKENIZER_PIECE_TIMEOUT_S)

        try:
            return await fetch_tokenizer(call, core.tokenizer_fingerprint)
        except ServerError as error:
            raise ConfigError(f"the core on the other host does not give its tokenizer: {error.message}") from error

    async def metrics(self, timeout_s: float) -> dict[str, int | float]:
        """All series that the core knows, with what this process has counted up to now.

        Raises:
            EngineUnavailableError: no answer within the time.
            ServerError: the core answered with an error.
        """
        if self._link is not None:
            self._report_metrics(self._link)
        values = await self.call(CallMethod.METRICS, timeout_s=timeout_s)
        return {key: value for key, value in values.items() if not isinstance(value, str)}

    # --- links ---

    def _open_link(self) -> CoreLink:
        hello = own_hello(self._name, self._role, self._address)
        return CoreLink(self._context, self._address, hello, self._on_change, self._on_reply, self._report_metrics)

    def _on_reply(self, reply: Reply) -> None:
        answers = self._calls.get(reply.call_id)  # None: nobody waits any more
        if answers is not None:
            answers.put_nowait(reply)

    def _report_metrics(self, link: CoreLink) -> None:
        reporter = self.reporter
        if reporter is None or link is not self._link or not link.session.is_welcomed:
            return
        if link.send(reporter.report()):
            reporter.on_reported()

    def _on_change(self, link: CoreLink) -> None:
        """Look at what a link has taken in."""
        session = link.session
        if session.orphans:
            self._hold(session.take_orphans(), None if session.state is CoreState.RETIRING else session.loss)
        if link is self._link:
            self._follow_core(session)
        elif link is self._next_link:
            if session.is_ready:
                self._begin_turning(session)
        elif link in self._retired_links and not session.requests:
            self._retired_links.remove(link)
            self._let_go(link)

    def _follow_core(self, session: Session) -> None:
        if session.state is CoreState.RETIRING:
            if self._next_link is None:
                log.info("another core takes the place of this one")
                self._next_link = self._open_link()
        elif not session.is_ready:
            self._ready.clear()
        elif not self._ready.is_set():
            self._ready.set()
            self._recover()

    def _begin_turning(self, session: Session) -> None:
        """Turn to the next core, once its model is prepared where it is another one."""
        welcome, before = session.welcome, self.welcome
        assert welcome is not None
        is_new = before is None or welcome.model_fingerprint != before.model_fingerprint
        if self._is_preparing:
            return
        if is_new and self.prepare_model is not None:
            self._is_preparing = True
            self._run(self._prepare_and_turn(welcome, self.prepare_model))
        else:
            self._turn()

    async def _prepare_and_turn(self, welcome: Welcome, prepare_model: PrepareModel) -> None:
        try:
            await prepare_model(welcome)
        finally:
            self._is_preparing = False
        if self._next_link is not None and self._next_link.session.is_ready:
            self._turn()

    def _turn(self) -> None:
        """Send requests to the next core from now on; the one before keeps its link while it answers."""
        before, next_link, self._next_link = self._link, self._next_link, None
        assert before is not None
        assert next_link is not None
        if before.session.is_ready:  # it found the new core by itself, after the one before had ended
            self._let_go(next_link)
            return
        self._link = next_link
        if before.session.requests:  # it retires, or dies in a moment
            self._retired_links.append(before)
        else:
            self._let_go(before)
        self._ready.set()
        self._recover()

    # --- requests without a core ---

    def _hold(self, requests: list[RequestOutputs], loss: EngineUnavailableError | None = None) -> None:
        self._recovery.hold(requests, loss)
        if self._recovery and not self._is_recovering:
            log.info("%d requests wait for the next core", len(self._recovery))
            self._is_recovering = True
            self._run(self._keep_recovering())

    async def _keep_recovering(self) -> None:
        try:
            while self._recovery:
                await asyncio.sleep(_RECOVERY_INTERVAL_S)
                self._recovery.expire(time.monotonic())
                self._recover()
        finally:
            self._is_recovering = False

    def _recover(self) -> None:
        """Bring the requests to the core, if one takes them."""
        welcome = self.welcome
        if not self._recovery or not self._session.is_ready or self._link is None or welcome is None:
            return
        requests = self._recovery.take_for(welcome)
        unsent = [request for request in requests if not self._link.add(request)]
        if unsent:
            self._recovery.hold(unsent)

    def _let_go(self, link: CoreLink) -> None:
        self._farewells.add(self._run(link.close()))

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._farewells.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the link to the core failed", exc_info=error)


def _add_up(result: dict[str, int | float | str], reply: Reply) -> None:
    """Add the counts of one more answer; raises `ServerError` for its error."""
    if reply.error:
        raise ServerError(reply.error)
    for name, value in reply.result.items():
        before = result.get(name)
        if isinstance(value, int) and isinstance(before, int):
            value += before
        result[name] = value
