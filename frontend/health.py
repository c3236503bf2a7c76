"""Probes: is the server ready, is this process alive. They never reach the engine and never wait for it.

`/health` and `/ping` are ready (200) or say why not (503, with the error envelope); `/health/live` answers as long as
this process can.
"""

import os
from typing import Any

from starlette.responses import Response

from frontend.errors import error_body, json_response
from frontend.state import FrontendState
from ipc.errors import EngineUnavailableError
from ipc.messages import Load
from ipc.placement import CoreView
from ipc.version import __version__


class Health:
    """The probe endpoints."""

    def __init__(self, state: FrontendState) -> None:
        self._state = state

    async def ready(self) -> Response:
        """200 if requests are served now, by whichever core, else 503."""
        status = self._state.status
        cores = [self._core(core) for core in self._state.client.cores]
        num_ready = sum(core["state"] == "ready" for core in cores)
        body = {"status": status, "engine": self._engine(), "num_cores_ready": num_ready, "cores": cores}
        if status == "ready":
            return json_response(body)
        error = EngineUnavailableError(f"The engine is {status}.")
        return json_response({**body, **error_body(error)}, status=503, headers={"retry-after": "1"})

    async def live(self) -> Response:
        """200, whatever the engine does."""
        return json_response({"status": "live", "pid": os.getpid()})

    async def version(self) -> Response:
        """Version of the server."""
        return json_response({"version": package_version()})

    def _core(self, core: CoreView) -> dict[str, Any]:
        return {
            "name": core.name,
            "state": self._state.core_watch.status_of(core),
            "epoch": core.welcome.epoch if core.welcome is not None else None,
            "detail": core.detail,
            "last_beat_age_s": round(core.beat_age_s, 3),
            "last_step_age_s": round(core.step_age_s, 3),
        }

    def _engine(self) -> dict[str, Any]:
        """All cores as one: the ages of one that works, where there is one."""
        client = self._state.client
        load = client.load if client.state is not None else Load()
        return {
            "epoch": client.welcome.epoch if client.welcome is not None else None,
            "detail": client.detail,
            "last_beat_age_s": round(client.beat_age_s, 3),
            "last_step_age_s": round(client.step_age_s, 3),
            "num_running": load.num_running,
            "num_waiting": load.num_waiting,
        }


def package_version() -> str:
    """Version of this process; those of the others may differ after an upgrade under a running server."""
    return __version__
