"""The core of an `LLM`: one in this process, or that of a running server, which stays as it is.

Invariant: after `close` no thread, socket or request of it is left; it comes with the last reference and the end of the
program too. Next: `fast_inference/core/engine/create.py` (in this process), `client_thread.py` (the client of either).
"""

import asyncio
import threading
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from fast_inference.batch.engine import attached_run_dir
from fast_inference.core.engine.client_thread import ClientThread
from fast_inference.core.engine.create import create_universal_vllm_style_engine
from fast_inference.core.engine.universal_engine import UniversalEngine
from frontend.health import package_version
from ipc.config import DEFAULT_MODEL, FrontendConfig, load_section
from ipc.endpoints import RunDir
from ipc.errors import ConfigError
from ipc.messages import ClientRole, RequestClass

_WATCH_INTERVAL_S = 0.5

_TRUE_OF_US = {"tensor_parallel_size": 1, "pipeline_parallel_size": 1, "trust_remote_code": False}
"""Arguments of vLLM's `LLM` with the one value that says what is so here anyway."""
_OF_VLLM = {
    "gpu_memory_utilization": "the KV cache is bounded by kv_cache_memory_bytes or num_blocks",
    "swap_space": "requests that lose their place in the KV cache are computed again",
    "cpu_offload_gb": "a model lies on one device",
    "tensor_parallel_size": "a model lies on one device",
    "pipeline_parallel_size": "a model lies on one device",
    "trust_remote_code": "code in model folders never runs",
    "seed": "give seed in SamplingParams",
    "task": "a model itself tells whether it gives text, vectors or both",
    "runner": "a model itself tells whether it gives text, vectors or both",
    "enable_lora": "give the adapters as lora=['NAME=PATH']",
    "enable_chunked_prefill": "prefill is always chunked, by max_prefill_chunk",
}
"""What to do instead of arguments that vLLM has."""


class OwnCore:
    """A core in this process."""

    def __init__(self, model: Any, tokenizer: Any, settings: Mapping[str, Any]) -> None:
        """Start it; raises `ConfigError` as `create_universal_vllm_style_engine` does."""
        self.engine: UniversalEngine = create_universal_vllm_style_engine(model, tokenizer, **_known(settings))
        self.client = self.engine.client

    def close(self) -> None:
        """End it; later calls do nothing."""
        self.engine.close()


class AttachedCore:
    """The core of a running server, of which this is one more client."""

    def __init__(self, attach: Any, request_class: RequestClass) -> None:
        """Connect to the server on a run dir, or at a URL on this machine.

        Raises:
            ConfigError: no server runs there, or one of another version.
            EngineUnavailableError: its core is not ready.
        """
        run_dir = attached_run_dir(str(attach))
        if not run_dir.has_launcher():
            raise ConfigError(f"no server runs on {run_dir.path}")
        config = load_section(run_dir.config_file, FrontendConfig)
        role = ClientRole.BATCH if request_class is RequestClass.BATCH else ClientRole.FRONTEND
        self.client = ClientThread(run_dir, config, int(time.time()), name="llm", role=role, process_role="program")
        watching = self.client.submit(_watch(run_dir, self.client))
        self._finalizer = weakref.finalize(self, _detach, self.client, watching)
        welcome = self.client.state.client.welcome
        if welcome is not None and welcome.core_version != package_version():
            self.close()
            message = f"the server on {run_dir.path} has version {welcome.core_version}, this is {package_version()}"
            raise ConfigError(message)

    def close(self) -> None:
        """Let go of it; later calls do nothing."""
        self._finalizer()


def connect(
    model: Any, tokenizer: Any, attach: Any, request_class: RequestClass, settings: Mapping[str, Any]
) -> OwnCore | AttachedCore:
    """The core that the arguments of an `LLM` mean; raises as those classes do, and `ConfigError` for both at once."""
    if attach is None:
        return OwnCore(DEFAULT_MODEL if model is None else model, tokenizer, settings)
    given = [*(["model"] if model is not None else []), *(["tokenizer"] if tokenizer is not None else []), *settings]
    if given:
        raise ConfigError(f"{given[0]} cannot go with attach: the server has a model and settings already")
    return AttachedCore(attach, request_class)


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is so anyway; raises `ConfigError` for what vLLM has and we do otherwise."""
    kept = {name: value for name, value in settings.items() if (name, value) not in _TRUE_OF_US.items()}
    for name in kept:
        if name in _OF_VLLM:
            raise ConfigError(f"no setting {name!r}: {_OF_VLLM[name]}")
    return kept


async def _watch(run_dir: RunDir, client: ClientThread) -> None:
    """End what waits for a core that will not come back."""
    while client.end is None:
        if not run_dir.has_launcher():
            client.disconnect(f"The server on {run_dir.path} has ended.")
        await asyncio.sleep(_WATCH_INTERVAL_S)


def _detach(client: ClientThread, watching: "Future[None]") -> None:
    """End the client; on its own thread, which collects garbage too, another one does it. Not in a forked process."""
    if not client.is_here:
        return
    if client.is_current:
        threading.Thread(target=_detach, args=(client, watching), name="engine end").start()
        return
    watching.cancel()
    client.stop()
