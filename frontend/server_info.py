"""`GET /load` and `GET /server_info`: how busy the whole server is, and what runs in it.

They repeat what the core said in its WELCOME and published with its last beat or step, twice a second at least, so they
are the same whichever frontend answers, and never wait for the engine.
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
from ipc.messages import PROTOCOL_VERSION, Load, Welcome


class ServerInfo:
    """The endpoints that describe the server."""

    def __init__(self, state: FrontendState) -> None:
        self._state = state

    async def load(self) -> Response:
        """Occupancy of the core; raises `EngineUnavailableError` while no core is known to live."""
        client = self._state.client
        if client.state is None or client.welcome is None:
            raise EngineUnavailableError(f"The engine is {self._state.status}.")
        body = {"status": self._state.status, **load_of(client.load, client.welcome)}
        return json_response({**body, "age_s": round(client.beat_age_s, 3)})

    async def server_info(self) -> Response:
        """Versions, model, device and limits; raises `EngineUnavailableError` while there is no model."""
        model, config = self._state.model(), self._state.config
        welcome = model.welcome
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
                "kv_cache": {"block_size": welcome.block_size, "num_blocks": welcome.num_blocks},
                "limits": {
                    "max_num_seqs": welcome.max_num_seqs,
                    "max_queued_requests": welcome.max_queued_requests,
                    "max_queued_tokens": welcome.max_queued_tokens,
                    "max_body_bytes": config.max_body_bytes,
                    "max_prompts": MAX_PROMPTS,
                    "max_inputs": MAX_INPUTS,
                    "max_choices": MAX_CHOICES,
                },
            }
        )


def load_of(load: Load, welcome: Welcome) -> dict[str, Any]:
    """What the core published, beside what it can hold; `server_load` is vLLM's."""
    num_blocks = load.num_blocks or welcome.num_blocks
    # before its first step a core has not said how many blocks are free: all of them
    num_free_blocks = load.num_free_blocks if load.num_blocks else num_blocks
    return {
        "server_load": load.num_running + load.num_waiting,
        "num_requests_running": load.num_running,
        "num_requests_waiting": load.num_waiting,
        "num_queued_tokens": load.num_queued_tokens,
        "kv_cache_usage": round(1 - num_free_blocks / num_blocks, 4) if num_blocks else 0.0,
        "is_full": load.retry_after_ms > 0,
        "retry_after_s": load.retry_after_ms / 1000,
        "capacity": {
            "running": welcome.max_num_seqs,
            "waiting": welcome.max_queued_requests,
            "queued_tokens": welcome.max_queued_tokens,
            "kv_blocks": num_blocks,
            "kv_tokens": num_blocks * welcome.block_size,
        },
    }
