"""How busy a server is: asked of its core, where the run dir is known, else of its API.

Tokens per second are those between two looks, so that the first one takes `FIRST_LOOK_S` where something runs.
"""

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fast_inference.api_client.connection import ApiClient, ApiError
from ipc.core_directory import read_cores
from ipc.errors import EngineUnavailableError, ServerError
from ipc.messages import CallMethod, ClientRole
from ipc.sync_client import SyncEngineClient

if TYPE_CHECKING:
    from ipc.endpoints import RunDir

FIRST_LOOK_S = 0.5
_CORE_TIMEOUT_S = 2.0
_TOKENS = re.compile(r"^\w+[:_]generation_tokens_total(?:\{[^}]*\})? (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """How busy the server is."""

    num_running: int
    num_waiting: int
    num_queued_tokens: int
    kv_cache_usage: float
    """From 0 to 1."""
    tokens_per_second: float | None
    """Of all answers; None where the server does not count."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What it serves."""

    name: str
    dtype: str
    device: str
    max_model_len: int
    kv_tokens: int
    """That the KV cache has room for."""


class Probe(Protocol):
    """Asks one server, again and again."""

    def look(self) -> tuple[ServedModel, ServerLoad]:
        """What it serves and how busy it is; raises `ApiError` or `EngineUnavailableError` where it does not say."""


class _Rate:
    """The speed of a counter between looks."""

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None

    @property
    def has_begun(self) -> bool:
        """True after the first look."""
        return self._before is not None

    def take(self, count: float) -> float:
        """Per second since the look before; 0 at the first one, and where the counter began anew."""
        now, before = time.monotonic(), self._before
        self._before = (now, count)
        return 0.0 if before is None or count < before[1] else (count - before[1]) / max(now - before[0], 1e-3)


class CoreProbe:
    """Asks the engine core behind a run dir; a context manager that ends the connection."""

    def __init__(self, run_dir: "RunDir", name: str) -> None:
        """`name` is what the model is served as."""
        self._address = next(iter(read_cores(run_dir).values()), run_dir.core_socket)
        self._name = name
        self._client: SyncEngineClient | None = None
        self._rate = _Rate()

    def __enter__(self) -> "CoreProbe":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def look(self) -> tuple[ServedModel, ServerLoad]:
        """See `Probe`; a core that does not answer is asked over a new connection the next time."""
        try:
            return self._look()
        except (EngineUnavailableError, ServerError):
            self._close()
            raise

    def _look(self) -> tuple[ServedModel, ServerLoad]:
        if self._client is None:
            self._client = SyncEngineClient(self._address, name="status", role=ClientRole.ADMIN)
            self._client.__enter__()
        welcome = self._client.wait_ready(_CORE_TIMEOUT_S)
        stats = self._client.call(CallMethod.STATS, timeout_s=_CORE_TIMEOUT_S)
        if not self._rate.has_begun and stats["num_running"]:
            self._rate.take(float(stats["num_sampled_tokens"]))
            time.sleep(FIRST_LOOK_S)
            stats = self._client.call(CallMethod.STATS, timeout_s=_CORE_TIMEOUT_S)
        num_blocks = int(stats["num_blocks"]) or welcome.num_blocks
        num_free = int(stats["num_free_blocks"]) if stats["num_blocks"] else num_blocks
        load = ServerLoad(
            num_running=int(stats["num_running"]),
            num_waiting=int(stats["num_waiting"]),
            num_queued_tokens=int(stats["num_queued_tokens"]),
            kv_cache_usage=1 - num_free / num_blocks if num_blocks else 0.0,
            tokens_per_second=self._rate.take(float(stats["num_sampled_tokens"])),
        )
        kv_tokens = num_blocks * welcome.block_size
        return ServedModel(self._name, welcome.dtype, welcome.device, welcome.max_model_len, kv_tokens), load

    def _close(self) -> None:
        if self._client is not None:
            self._client.__exit__(None, None, None)
            self._client = None


class ApiProbe:
    """Asks a server by its URL, as anybody with a key may."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._rate = _Rate()

    def look(self) -> tuple[ServedModel, ServerLoad]:
        """See `Probe`."""
        info, load = self._client.get("/server_info"), self._client.get("/load")
        tokens = self._num_tokens()
        num_running = int(load["num_requests_running"])
        if tokens is not None and not self._rate.has_begun and num_running:
            self._rate.take(tokens)
            time.sleep(FIRST_LOOK_S)
            tokens = self._num_tokens()
        model, cache = info["model"], info["kv_cache"]
        return (
            ServedModel(
                str(model["names"][0]),
                str(model["dtype"]),
                str(model["device"]),
                int(model["max_model_len"]),
                cache["num_blocks"] * cache["block_size"],
            ),
            ServerLoad(
                num_running=num_running,
                num_waiting=int(load["num_requests_waiting"]),
                num_queued_tokens=int(load["num_queued_tokens"]),
                kv_cache_usage=float(load["kv_cache_usage"]),
                tokens_per_second=None if tokens is None else self._rate.take(tokens),
            ),
        )

    def _num_tokens(self) -> float | None:
        """Tokens of all answers so far, where the server counts them."""
        try:
            text = self._client.get_text("/metrics")
        except ApiError:
            return None
        found: list[Any] = _TOKENS.findall(text)
        return sum(map(float, found)) if found else None
