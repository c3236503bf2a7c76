"""`GET /metrics`: one text for the whole server, whichever frontend is asked.

Each core is asked for all that it and its clients have counted (its I/O thread answers, whatever it computes); where
one does not answer, the text holds what is known without it, and is a 200 all the same.
Invariant: a scrape waits for nothing longer than `PATIENCE_S`, and is neither refused under load nor during a drain.
"""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from frontend.batch_api.service import BatchApi
from frontend.health import package_version
from frontend.metrics.batch_jobs import BatchJobs
from frontend.metrics.exposition import MetricsText
from frontend.metrics.server_status import values_of_status
from frontend.state import FrontendState
from ipc.errors import EngineUnavailableError, ServerError
from ipc.metric_series import SeriesValues, series_key

PATIENCE_S = 1.0
LINK_PATIENCE_S = 0.3
"""For the first word of a core to a frontend that has just started."""


class ServingMetrics:
    """The endpoint of one frontend."""

    def __init__(self, state: FrontendState, batch_api: BatchApi) -> None:
        self._state = state
        self._batch_jobs = BatchJobs(batch_api)

    async def metrics(self, request: Request) -> Response:
        """All metrics."""
        answers = await self._answers_of_cores()
        of_launcher = values_of_status(self._state.status_file)
        names = [core.name for core in self._state.client.cores]
        of_cores: dict[str, SeriesValues] = {
            name: {
                **answers.get(name, {}),
                **of_launcher.of_cores.get(name, {}),
                "core_up": int(name in answers),
            }
            for name in dict.fromkeys([*names, *answers])
        }
        of_server: SeriesValues = {
            **of_launcher.of_server,
            **await self._batch_jobs.values(),
            "ready": int(bool(answers) and self._state.status == "ready"),
            series_key("build_info", package_version()): 1,
        }
        prefix, model_name = self._state.config.metrics_prefix, self._state.model_name

        def write() -> tuple[bytes, str]:
            text = MetricsText(of_server, of_cores, prefix=prefix, model_name=model_name)
            return text.encode(request.headers.get("accept", ""))

        is_long = len(of_cores) > 1  # it would hold up the streams of this process
        body, content_type = await asyncio.to_thread(write) if is_long else write()
        return Response(body, headers={"content-type": content_type})

    async def _answers_of_cores(self) -> dict[str, SeriesValues]:
        """By the name of the core; those that do not answer are left out."""
        client = self._state.client
        try:
            if client.state is None and client.welcome is None:  # this process has just started
                await client.wait_ready(LINK_PATIENCE_S)
            return await client.metrics(PATIENCE_S) if client.welcome is not None else {}
        except (EngineUnavailableError, ServerError):
            return {}
