"""`GET /load` and `GET /server_info`: how busy the whole server is, and what runs in it.

They repeat what each core said in its WELCOME and published with its last beat or step, twice a second at least, so are
the same whichever frontend answers, and never wait for the engine. Figures of the server are sums over its cores.
Invariant: no paths, no keys, nothing about single requests.
"""

import platform
from typing import Any

from starlette.responses import Response

from frontend.errors import json_response
from frontend.health import package_version
from frontend.openai.inputs import MAX_INPUTS, MAX_PROMPTS
from frontend.openai.protocol import MAX_CHOICES
from frontend.state import FrontendState
from ipc.errors import EngineUnavailableError
from ipc.messages import PROTOCOL_VERSION, Load
from ipc.placement import Capacity, CoreView


class ServerInfo:
    """The endpoints that describe the server."""

    def __init__(self, state: FrontendState) -> None:
        self._state = state

    async def load(self) -> Response:
        """Occupancy of the cores; raises `EngineUnavailableError` while no core is known to live."""
        client = self._state.client
        if client.state is None or client.welcome is None:
            raise EngineUnavailableError(f"The engine is {self._state.status}.")
        return json_response(
            {
                "status": self._state.status,
                **load_of(client.load, client.capacity, client.welcome.block_size),
                "age_s": round(client.beat_age_s, 3),
                "cores": [self._load_of_core(core) for core in client.cores],
            }
        )

    def _load_of_core(self, core: CoreView) -> dict[str, Any]:
        load = Load() if core.state is None else core.load
        num_blocks = 0 if core.welcome is None else core.welcome.num_blocks
        return {
            "name": core.name,
            "state": self._state.core_watch.status_of(core),
            "num_requests_running": load.num_running,
            "num_requests_waiting": load.num_waiting,
            "num_queued_tokens": load.num_queued_tokens,
            "kv_cache_usage": kv_cache_usage(load, num_blocks),
            "is_full": load.retry_after_ms > 0,
            "age_s": round(core.beat_age_s, 3),
        }

    async def server_info(self) -> Response:
        """Versions, model, devices and limits; raises `EngineUnavailableError` while there is no model."""
        model, config = self._state.model(), self._state.config
        welcome, capacity = model.welcome, self._state.client.capacity
        cores = [(core.name, core.welcome) for core in self._state.client.cores if core.welcome is not None]
        return json_response(
            {
                "version": package_version(),
                "core_version": welcome.core_version,
                "protocol_version": PROTOCOL_VERSION,
                "python_version": platform.python_version(),
                "started_at": self._state.created_at,
                "model": {
                    "names": list(model.names),
                    "adapters": list(model.adapters),
                    "fingerprint": model.system_fingerprint,
                    "dtype": welcome.dtype,
                    "device": welcome.device,
                    "vocab_size": welcome.vocab_size,
                    "max_model_len": welcome.max_model_len,
                    "embedding_size": welcome.embedding_size,
                    "can_generate": welcome.can_generate,
                    "pooling": welcome.pooling if welcome.embedding_size else None,
                },
                "cores": [
                    {
                        "name": name,
                        "version": core.core_version,
                        "device": core.device,
                        "num_blocks": core.num_blocks,
                        "max_num_seqs": core.max_num_seqs,
                    }
                    for name, core in cores
                ],
                "kv_cache": {"block_size": welcome.block_size, "num_blocks": capacity.num_blocks},
                "limits": {
                    "max_num_seqs": capacity.max_num_seqs,
                    "max_queued_requests": capacity.max_queued_requests,
                    "max_queued_tokens": capacity.max_queued_tokens,
                    "max_body_bytes": config.max_body_bytes,
                    "max_prompts": MAX_PROMPTS,
                    "max_inputs": MAX_INPUTS,
                    "max_choices": MAX_CHOICES,
                },
            }
        )


def load_of(load: Load, capacity: Capacity, block_size: int) -> dict[str, Any]:
    """What cores published, beside what they can hold; `server_load` is vLLM's."""
    return {
        "server_load": load.num_running + load.num_waiting,
        "num_requests_running": load.num_running,
        "num_requests_waiting": load.num_waiting,
        "num_queued_tokens": load.num_queued_tokens,
        "kv_cache_usage": kv_cache_usage(load, capacity.num_blocks),
        "is_full": load.retry_after_ms > 0,
        "retry_after_s": load.retry_after_ms / 1000,
        "capacity": {
            "running": capacity.max_num_seqs,
            "waiting": capacity.max_queued_requests,
            "queued_tokens": capacity.max_queued_tokens,
            "kv_blocks": capacity.num_blocks,
            "kv_tokens": capacity.num_blocks * block_size,
        },
    }


def kv_cache_usage(load: Load, num_blocks: int) -> float:
    """Part of so many blocks that is in use; `load` has no blocks of cores that have not computed a step yet."""
    return round((load.num_blocks - load.num_free_blocks) / num_blocks, 4) if num_blocks else 0.0
