"""`GET /metrics`: one text for the whole server, whichever frontend is asked.

The core is asked for all that it and its clients have counted (its I/O thread answers, whatever it computes); where
there is none, or it does not answer, the text holds what is known without it, and is a 200 all the same.
Invariant: a scrape waits for nothing longer than `PATIENCE_S`, and is neither refused under load nor during a drain.
"""

from collections import Counter

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
        of_core = await self._values_of_core()
        values: SeriesValues = {
            **of_core,
            **values_of_status(self._state.status_file),
            **await self._batch_jobs.values(),
            "core_up": int(bool(of_core)),
            "ready": int(bool(of_core) and self._state.status == "ready"),
            series_key("build_info", package_version()): 1,
        }
        text = MetricsText(values, prefix=self._state.config.metrics_prefix, model_name=self._state.model_name)
        body, content_type = text.encode(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def _values_of_core(self) -> SeriesValues:
        """Empty where no core answers."""
        client = self._state.client
        try:
            if client.state is None and client.welcome is None:  # this process has just started
                await client.wait_ready(LINK_PATIENCE_S)
            of_cores = await client.metrics(PATIENCE_S) if client.welcome is not None else {}
        except (EngineUnavailableError, ServerError):
            return {}
        total: Counter[str] = Counter()
        for values in of_cores.values():
            total.update(values)
        return dict(total)
