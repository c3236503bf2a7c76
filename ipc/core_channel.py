"""One core of a client, across its lives: a link to the core that runs there, and others while a new one replaces it.

Owned by `ipc.client.EngineClient`, which has one channel for each core and decides what goes where. A core that retires
finishes what it runs on its own link, while requests go to the one that has taken its place, as soon as that is ready.
Invariant: a live stream is in the session of exactly one link of one channel, or its owner was given it as an orphan.
Next: `core_link.py`.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import zmq

from ipc.background_tasks import BackgroundTasks
from ipc.core_link import CoreLink
from ipc.endpoints import CoreAddress
from ipc.errors import EngineUnavailableError
from ipc.messages import CoreState, Hello, Reply, RequestId, Welcome
from ipc.placement import CoreView, is_step_stuck
from ipc.request_outputs import RequestOutputs

log = logging.getLogger(__name__)

SILENT_AFTER_S = 5.0
"""A core that was not heard for so long gets no requests while another one can have them."""
_PATIENCE_WITH_UNLISTED_S = 3.0
"""A core that nobody lists any more is lost after so much silence; one that retires is heard twice a second."""

PrepareModel = Callable[[Welcome], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ChannelEvents:
    """Whom a channel tells what."""

    on_change: Callable[[], None]
    """A core is ready, is not ready any more, or is another one."""
    on_orphans: Callable[["CoreChannel", list[RequestOutputs], EngineUnavailableError | None], None]
    """These requests have no core; with what they end in where they may not go on, None where they always may."""
    on_refused: Callable[["CoreChannel", RequestOutputs], bool]
    """Its core has no room for a new request; True if another one takes it."""
    on_reply: Callable[["CoreChannel", Reply], None]
    on_beat: Callable[["CoreChannel"], None]
    """About once a second, while its core takes requests."""
    prepare_model: PrepareModel
    """Awaited before it turns to a core with another model."""


class CoreChannel:
    """A connection to whatever core is at one address."""

    def __init__(
        self,
        name: str,
        address: CoreAddress,
        context: "zmq.Context[zmq.Socket[bytes]]",
        hello: Hello,
        events: ChannelEvents,
        tasks: BackgroundTasks,
    ) -> None:
        """Connect at once, and stay connected until `close`."""
        self.name = name
        self.address = address
        self.is_listed = True
        """False once nobody is to send new requests to it."""
        self._context = context
        self._hello = hello
        self._events = events
        self._tasks = tasks
        self.link = self._open_link()
        """To the core that takes requests."""
        self.next_link: CoreLink | None = None
        """To the core that takes them from now on, until it is known to be ready."""
        self.retired_links: list[CoreLink] = []
        """To cores that only finish what they run."""
        self._is_preparing = False
        self._seen_state: CoreState | None = None
        self.view = CoreView(name)
        """What is known of the core, for placement; its ages are those of `snapshot`."""

    @property
    def links(self) -> list[CoreLink]:
        """All of them."""
        return [link for link in (self.link, self.next_link, *self.retired_links) if link is not None]

    @property
    def state(self) -> CoreState | None:
        """State of the core; None while none is known to live. A core that another one replaces counts as READY."""
        state = self.link.session.state
        return CoreState.READY if state is CoreState.RETIRING else state

    @property
    def is_ready(self) -> bool:
        """True while its core takes requests."""
        return self.link.session.is_ready

    @property
    def is_turning(self) -> bool:
        """True while its core retires and the next one is not ready yet."""
        return self.link.session.state is CoreState.RETIRING

    @property
    def welcome(self) -> Welcome | None:
        """What the core last said about itself; stays when the core is lost."""
        return self.link.session.welcome

    @property
    def num_live(self) -> int:
        """Requests of this client that its cores have."""
        return sum(len(link.session.requests) for link in self.links)

    def snapshot(self) -> CoreView:
        """What is known of the core now, with the ages of what it said."""
        session = self.link.session
        return replace(
            self.view,
            beat_age_s=session.beat_age_s,
            step_age_s=session.step_age_s,
            step_allowance_s=session.step_allowance_s,
        )

    @property
    def is_silent(self) -> bool:
        """True where the core was not heard for long."""
        return self.link.session.beat_age_s > SILENT_AFTER_S

    @property
    def is_stuck(self) -> bool:
        """True where the core is silent, or its step takes longer than it may."""
        session = self.link.session
        return self.is_silent or is_step_stuck(session.step_age_s, session.step_allowance_s)

    def add(self, request: RequestOutputs) -> bool:
        """Hand a request to the core, whole or from where it stopped; False if it could not be sent."""
        if not self.link.add(request, self.name):
            return False
        view = self.view
        view.num_live += 1
        view.num_sent_since += 1
        view.num_tokens_sent_since += len(request.add.prompt_token_ids) + len(request.emitted_token_ids)
        return True

    def abort(self, request_ids: Sequence[RequestId], reason: str) -> None:
        """Stop these requests; those that are not live here are left out."""
        for link in self.links:
            link.abort(request_ids, reason)
        self.view.num_live = len(self.link.session.requests)

    def unlist(self) -> None:
        """Nobody is to send it new requests: it is closed when nothing runs there any more."""
        self.is_listed = False

    def is_over(self) -> bool:
        """True once a core that is not listed has nothing more to say; one that is silent is lost at once."""
        if self.is_listed:
            return False
        if self.num_live and self.link.session.beat_age_s > _PATIENCE_WITH_UNLISTED_S:
            self.lose("it is silent, and not listed any more")
        return not self.num_live

    def lose(self, reason: str) -> None:
        """Take the core for lost."""
        for link in self.links:
            link.session.lose(reason)
            self._on_change(link)

    def close(self, error: EngineUnavailableError) -> None:
        """Say BYE and let go of the sockets, at once; live streams end in the error."""
        for link in self.links:
            link.close()
            link.session.fail_all(error)

    # --- links ---

    def _open_link(self) -> CoreLink:
        link = CoreLink(self._context, self.address, self._hello, self._on_change, self._on_reply, self._on_beat)
        link.session.pass_on = self._pass_on
        return link

    def _pass_on(self, request: RequestOutputs) -> bool:
        return self._events.on_refused(self, request)

    def _on_reply(self, reply: Reply) -> None:
        self._events.on_reply(self, reply)

    def _on_beat(self, link: CoreLink) -> None:
        if link is self.link and link.session.is_welcomed:
            self._events.on_beat(self)

    def _on_change(self, link: CoreLink) -> None:
        """Look at what a link has taken in."""
        session = link.session
        orphans = session.take_orphans()
        if link is self.link:
            self._follow_core()
        elif link is self.next_link:
            if session.is_ready:
                self._begin_turning(link)
        elif link in self.retired_links and not session.requests:
            self.retired_links.remove(link)
            link.close()
        self._update_view()
        if orphans:
            self._events.on_orphans(self, orphans, None if session.state is CoreState.RETIRING else session.loss)

    def _update_view(self) -> None:
        """Write down what is known now; tell the owner where that is more than numbers."""
        session, view = self.link.session, self.view
        view.num_live = len(session.requests)
        view.detail = session.detail
        if session.load is not view.load:
            view.load = session.load
            view.num_sent_since = view.num_tokens_sent_since = 0
        if session.state is not self._seen_state or session.welcome is not view.welcome:
            self._seen_state = session.state
            view.is_ready, view.state, view.welcome = session.is_ready, self.state, session.welcome
            self._events.on_change()

    def _follow_core(self) -> None:
        if self.is_turning and self.is_listed and self.next_link is None:
            log.info("another core takes the place of this one")
            self.next_link = self._open_link()

    def _begin_turning(self, link: CoreLink) -> None:
        """Turn to the next core, once its model is prepared where it is another one."""
        welcome, before = link.session.welcome, self.welcome
        assert welcome is not None
        if self._is_preparing:
            return
        if before is None or welcome.model_fingerprint != before.model_fingerprint:
            self._is_preparing = True
            self._tasks.run(self._prepare_and_turn(welcome))
        else:
            self._turn(link)

    async def _prepare_and_turn(self, welcome: Welcome) -> None:
        try:
            await self._events.prepare_model(welcome)
        finally:
            self._is_preparing = False
        if self.next_link is not None and self.next_link.session.is_ready:
            self._turn(self.next_link)
            self._update_view()

    def _turn(self, next_link: CoreLink) -> None:
        """Send requests to the next core from now on; the one before keeps its link while it answers."""
        before, self.next_link = self.link, None
        if before.session.is_ready:  # it found the new core by itself, after the one before had ended
            next_link.close()
            return
        self.link = next_link
        if before.session.requests:  # it retires, or dies in a moment
            self.retired_links.append(before)
        else:
            before.close()
