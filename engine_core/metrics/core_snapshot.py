"""The answer to the control call METRICS: every series that the core knows, as of now.

Made on the I/O thread, in about a tenth of a millisecond, while a step may run.
"""

import time
from collections.abc import Iterable

from engine_core.client_registry import Client
from engine_core.metrics.client_reports import ClientReports
from engine_core.metrics.engine_metrics import EngineMetrics
from ipc.messages import Load, Welcome
from ipc.metric_series import SeriesValues, cpu_seconds, resident_bytes, series_key

_ROLE = "core"


class CoreSnapshot:
    """Puts together what the parts of the core have counted; owned by the I/O thread."""

    def __init__(self) -> None:
        self.reports = ClientReports()
        self._engine: EngineMetrics | None = None
        self._num_blocks = 0
        self._num_bad_messages = 0
        self._config: SeriesValues = {}

    def set_engine(self, engine: EngineMetrics, welcome: Welcome) -> None:
        """The model is loaded."""
        self._engine = engine
        self._num_blocks = welcome.num_blocks
        labels = str(welcome.block_size), str(welcome.num_blocks), str(engine.has_prefix_cache)
        self._config = {series_key("cache_config_info", *labels): 1}

    def values(
        self,
        load: Load,
        clients: Iterable[Client],
        *,
        step_age_s: float,
        num_bad_messages: int,
        num_cut_connections: int,
        num_refused_keys: int,
    ) -> SeriesValues:
        """All series."""
        values = self.reports.values([client.gauges for client in clients])
        self._num_bad_messages = max(self._num_bad_messages, num_bad_messages)  # a counter never falls
        num_blocks = self._num_blocks
        num_free_blocks = load.num_free_blocks if load.num_blocks else num_blocks  # all, before the first step
        values.update(
            {
                "num_requests_running": load.num_running,
                "num_requests_waiting": load.num_waiting,
                "num_queued_tokens": load.num_queued_tokens,
                "kv_blocks": num_blocks,
                "kv_blocks_free": num_free_blocks,
                "kv_cache_usage_perc": 1 - num_free_blocks / num_blocks if num_blocks else 0.0,
                "core_step_age_seconds": step_age_s,
                "ipc_bad_messages_total": self._num_bad_messages,
                series_key("ipc_refused_connections_total", "limit"): num_cut_connections,
                series_key("ipc_refused_connections_total", "key"): num_refused_keys,
                series_key("process_cpu_seconds_total", _ROLE): cpu_seconds(),
                series_key("process_resident_memory_bytes", _ROLE): resident_bytes(),
            }
        )
        values.update(self._config)
        if self._engine is not None:
            values.update(self._engine.values(time.time()))
        return values
