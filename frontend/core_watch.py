"""Whether the cores that are to answer do: a core may be silent, or its step may never end.

Owned by `state.py`. A core that is stalled is passed over by the client while another is ready (`ipc/core_set.py`),
so the server is stalled only where all of them are. Invariant: what this process slept is no silence of a core.
"""

from ipc.client import EngineClient
from ipc.core_channel import SILENT_AFTER_S
from ipc.messages import CoreState
from ipc.own_sleep import Silence
from ipc.placement import CoreView, is_step_stuck

BEAT_TIMEOUT_S = SILENT_AFTER_S
"""A core that was not heard for so long is not ready."""
STATUS_OF_STATE = {
    CoreState.LOADING: "loading",
    CoreState.READY: "ready",
    CoreState.DRAINING: "draining",
    CoreState.DYING: "dead",
}


class CoreWatch:
    """Watches the cores of one client; `look` is to be called twice a second."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._silences: dict[str, Silence] = {}

    def look(self) -> None:
        """So that time is counted while nobody asks."""
        cores = self._client.cores
        self._silences = {core.name: self._silences.get(core.name) or Silence() for core in cores}
        for core in cores:
            self._silences[core.name].seconds(core.beat_age_s)

    def are_all_stalled(self) -> bool:
        """True where no core that takes requests would answer one; costs next to nothing while one does."""
        client = self._client
        if client.beat_age_s <= BEAT_TIMEOUT_S and not is_step_stuck(client.step_age_s, client.step_allowance_s):
            return False
        cores = client.cores
        return all(self._is_stalled(core) for core in [core for core in cores if core.is_ready] or cores)

    def status_of(self, core: CoreView) -> str:
        """`ready`, `starting`, `loading`, `draining`, `stalled` or `dead`."""
        if core.state is None:
            return "starting" if core.welcome is None else "dead"
        return "stalled" if core.is_ready and self._is_stalled(core) else STATUS_OF_STATE[core.state]

    def _is_stalled(self, core: CoreView) -> bool:
        """True where it is silent although this process listens, or its step takes longer than it may."""
        silence = self._silences.setdefault(core.name, Silence())
        is_silent = silence.seconds(core.beat_age_s) > BEAT_TIMEOUT_S
        return is_silent or is_step_stuck(core.step_age_s, core.step_allowance_s)
