"""One simulated frontend: what it knows of the cores, and which of them its policy chooses.

Loads come with the steps in which the core has requests of this frontend, and with beats, as in `ipc.client`. Time on
the way is counted once, before a request is in its core; so what a core publishes is known here at once, and nothing is
known of requests that are still on their way. Invariant: `num_sent_since` of a view counts what `load` cannot contain.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fast_inference.bench.fleet.sim_request import SimRequest
from fast_inference.bench.fleet.tokens import Alphabet
from ipc.messages import Add, CoreState, Load, RequestId, Welcome
from ipc.placement import CoreView, Placement
from ipc.sampling_params import SamplingParams

MAX_ROUTED_TOKENS = 4096
"""A policy gets no more of a prompt than this, which is more than any looks at: making tokens takes time here."""
_PARAMS = SamplingParams(max_tokens=1)


@dataclass(slots=True)
class SimView(CoreView):
    """A view with what is on its way."""

    num_under_way: int = 0
    num_tokens_under_way: int = 0


class SimFrontend:
    """A frontend; it can choose once `on_cores_changed` has named a core."""

    def __init__(self, policy: Placement, welcome: Welcome, alphabet: Alphabet) -> None:
        """`alphabet`: of the tokens that the policy sees."""
        self._alphabet = alphabet
        self._policy = policy
        self._welcome = welcome
        self._views: dict[str, SimView] = {}
        self._ready: list[SimView] = []

    @property
    def has_cores(self) -> bool:
        """True where any core is ready."""
        return bool(self._ready)

    def on_cores_changed(self, names: Sequence[str], news: frozenset[str]) -> None:
        """These are ready now; `news` are those that have just started, and hold nothing."""
        for name in news:
            self._views[name] = SimView(name, is_ready=True, state=CoreState.READY, welcome=self._welcome)
        self._ready = [self._views[name] for name in names]
        self._policy.on_cores_changed(names)

    def choose(self, request: SimRequest) -> str:
        """Name of the core that is to take a request."""
        view = self._ready[self._policy.choose(self._as_add(request), self._ready)]
        num_tokens = request.num_known_tokens
        view.num_sent_since += 1
        view.num_tokens_sent_since += num_tokens
        view.num_under_way += 1
        view.num_tokens_under_way += num_tokens
        view.num_live += 1
        return view.name

    def on_taken_in(self, request: SimRequest) -> None:
        """It has come to its core."""
        view = self._views[request.core]
        view.num_under_way -= 1
        view.num_tokens_under_way -= request.num_known_tokens

    def on_left(self, request: SimRequest) -> None:
        """Its core has it no more."""
        self._views[request.core].num_live -= 1

    def on_load(self, name: str, load: Load) -> None:
        """A core has published its load."""
        view = self._views[name]
        view.load = load
        view.num_sent_since = view.num_under_way
        view.num_tokens_sent_since = view.num_tokens_under_way

    def _as_add(self, request: SimRequest) -> Add:
        tokens = request.prompt.token_ids(self._alphabet, MAX_ROUTED_TOKENS)
        return Add(RequestId(request.number + 1), tokens, _PARAMS, num_resumed_tokens=request.num_emitted)
