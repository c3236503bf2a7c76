"""How busy a server is: asked of its cores, where the run dir is known, else of its API.

Tokens per second are those between two looks, so that the first one takes `FIRST_LOOK_S` where something runs. A core
that does not answer keeps no other one from being shown.
"""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fast_inference.api_client.connection import ApiClient, ApiError
from ipc.client import EngineClient
from ipc.core_directory import CoreDirectory
from ipc.errors import EngineUnavailableError, ServerError
from ipc.messages import ClientRole
from ipc.placement import CoreView

if TYPE_CHECKING:
    from ipc.endpoints import RunDir

FIRST_LOOK_S = 0.5
_CORE_TIMEOUT_S = 2.0
_LOOK_INTERVAL_S = 0.01
_TOKENS = re.compile(r"^\w+[:_]generation_tokens_total(?:\{([^}]*)\})? (\S+)", re.MULTILINE)
_CORE_LABEL = re.compile(r'\b(?:core|engine)="([^"]*)"')

_Values = Mapping[str, int | float]
"""Series of one core."""


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


@dataclass(frozen=True, slots=True)
class CoreLoad:
    """One core, and how busy it is."""

    name: str
    state: str
    """ready, loading, draining, stalled, dead, …; `no answer` where nothing is heard of it."""
    load: ServerLoad | None = None
    """None while it does not say."""
    device: str = ""
    """Empty where that is not known."""
    last_exit: str = ""
    """How the one before it ended; empty where there was none, or only the URL is known."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look has found."""

    model: ServedModel
    load: ServerLoad
    """Of all cores together."""
    cores: Sequence[CoreLoad]


class Probe(Protocol):
    """Asks one server, again and again."""

    def look(self) -> Look:
        """What it serves and how busy it is; raises `ApiError` or `EngineUnavailableError` where it does not say."""


class _Rates:
    """The speed of each core between looks."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, float]] = {}

    @property
    def has_begun(self) -> bool:
        """True after the first look."""
        return bool(self._before)

    def take(self, core: str, count: float) -> float:
        """Per second since the look before; 0 at the first one, and where the counter began anew."""
        now, before = time.monotonic(), self._before.get(core)
        self._before[core] = (now, count)
        return 0.0 if before is None or count < before[1] else (count - before[1]) / max(now - before[0], 1e-3)


class CoreProbe:
    """Asks the engine cores behind a run dir, each time over new connections."""

    def __init__(self, run_dir: "RunDir", name: str) -> None:
        """`name` is what the model is served as; empty where it is what the cores call it."""
        self._run_dir = run_dir
        self._name = name
        self._rates = _Rates()

    def look(self) -> Look:
        """See `Probe`."""
        try:
            return asyncio.run(self._look())
        except ServerError as error:
            raise EngineUnavailableError(error.message) from error

    async def _look(self) -> Look:
        client = EngineClient(CoreDirectory(self._run_dir), name="status", role=ClientRole.ADMIN)
        await client.start()
        try:
            await _wait_for_all(client)
            values = await client.metrics(_CORE_TIMEOUT_S)
            if not self._rates.has_begun and any(of_core["num_requests_running"] for of_core in values.values()):
                self._take_rates(values)
                await asyncio.sleep(FIRST_LOOK_S)
                values = await client.metrics(_CORE_TIMEOUT_S)
            speeds = self._take_rates(values)
            cores = client.cores
        finally:
            await client.close()
        welcomes = [core.welcome for core in cores if core.name in values and core.welcome is not None]
        if not welcomes:
            raise EngineUnavailableError("the engine is not ready: no answer")
        num_blocks = int(sum(of_core["kv_blocks"] for of_core in values.values()))
        model = ServedModel(
            self._name or welcomes[0].model_id,
            welcomes[0].dtype,
            ", ".join(dict.fromkeys(welcome.device for welcome in welcomes)),
            welcomes[0].max_model_len,
            num_blocks * welcomes[0].block_size,
        )
        rows = [_core_load(core, values.get(core.name), speeds.get(core.name, 0.0)) for core in cores]
        return Look(model, _load_of(list(values.values()), sum(speeds.values())), rows)

    def _take_rates(self, values: Mapping[str, _Values]) -> dict[str, float]:
        return {name: self._rates.take(name, of_core["generation_tokens_total"]) for name, of_core in values.items()}


async def _wait_for_all(client: EngineClient) -> None:
    """Until each core has said how it is, but not for long."""
    deadline = time.monotonic() + _CORE_TIMEOUT_S
    while time.monotonic() < deadline and any(core.state is None for core in client.cores):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_INTERVAL_S)


def _core_load(core: CoreView, values: _Values | None, tokens_per_second: float) -> CoreLoad:
    device = "" if core.welcome is None else core.welcome.device
    state = "no answer" if core.state is None or (core.is_ready and values is None) else core.state.name.lower()
    return CoreLoad(core.name, state, None if values is None else _load_of([values], tokens_per_second), device)


def _load_of(cores: Sequence[_Values], tokens_per_second: float) -> ServerLoad:
    def total(name: str) -> int:
        return int(sum(values[name] for values in cores))

    num_blocks = total("kv_blocks")
    return ServerLoad(
        num_running=total("num_requests_running"),
        num_waiting=total("num_requests_waiting"),
        num_queued_tokens=total("num_queued_tokens"),
        kv_cache_usage=1 - total("kv_blocks_free") / num_blocks if num_blocks else 0.0,
        tokens_per_second=tokens_per_second,
    )


class ApiProbe:
    """Asks a server by its URL, as anybody with a key may."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._rates = _Rates()

    def look(self) -> Look:
        """See `Probe`."""
        info, load = self._client.get("/server_info"), self._client.get("/load")
        tokens = self._num_tokens()
        if tokens and not self._rates.has_begun and load["num_requests_running"]:
            self._take_rates(tokens)
            time.sleep(FIRST_LOOK_S)
            tokens = self._num_tokens()
        speeds = self._take_rates(tokens)
        model, cache = info["model"], info["kv_cache"]
        devices = {core["name"]: str(core["device"]) for core in info["cores"]}
        return Look(
            ServedModel(
                str(model["names"][0]),
                str(model["dtype"]),
                ", ".join(dict.fromkeys(devices.values())),
                int(model["max_model_len"]),
                cache["num_blocks"] * cache["block_size"],
            ),
            _load_of_answer(load, sum(speeds.values()) if tokens else None),
            [
                CoreLoad(
                    core["name"],
                    str(core["state"]),
                    _load_of_answer(core, speeds.get(core["name"])),
                    devices.get(core["name"], ""),
                )
                for core in load["cores"]
            ],
        )

    def _take_rates(self, tokens: Mapping[str, float]) -> dict[str, float]:
        return {name: self._rates.take(name, count) for name, count in tokens.items()}

    def _num_tokens(self) -> dict[str, float]:
        """Tokens of all answers so far, by core; empty where the server does not count them."""
        try:
            text = self._client.get_text("/metrics")
        except ApiError:
            return {}
        counts: dict[str, float] = {}
        for labels, count in _TOKENS.findall(text):
            core = _CORE_LABEL.search(labels)
            counts[core[1] if core is not None else ""] = float(count)
        return counts


def _load_of_answer(load: Mapping[str, Any], tokens_per_second: float | None) -> ServerLoad:
    return ServerLoad(
        num_running=int(load["num_requests_running"]),
        num_waiting=int(load["num_requests_waiting"]),
        num_queued_tokens=int(load["num_queued_tokens"]),
        kv_cache_usage=float(load["kv_cache_usage"]),
        tokens_per_second=tokens_per_second,
    )
