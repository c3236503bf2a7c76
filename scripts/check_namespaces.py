#!/usr/bin/env python3
"""Frontends on one host and cores on another, as two network namespaces: who is heard, and what a cut link costs.

    sudo scripts/check_namespaces.py                                         # fake model, a step takes 20 ms
    sudo scripts/check_namespaces.py --model smollm2-135m-instruct -- --dtype float32   # flags of the cores after --
    sudo scripts/check_namespaces.py cut --cuts drop:3 unplug:3 --cores 1

    strangers  peers with another key, without one, and that speak something else: what they get, and what is counted
    cut        streams that run when the link is cut, for the times of `--cuts`: packets are dropped silently (drop:S),
               or the link is down (unplug:S); each stream must end, with the text of an undisturbed run where the cut
               is shorter than the lease (10 s), else perhaps in an error event; new requests meanwhile are refused with
               503 and Retry-After; afterwards all is as before
    kill       streams that run when one of several cores gets `kill -9` (not with --cores 1)

Nothing of the cores' host is there on the frontends' but the core's public key: neither model nor tokenizer. Needs root
(for the namespaces) and iproute2. Exit status 1 if a goal is missed. `tests/integration/test_remote_cores.py` does the
same through a proxy in a process.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.bench.goals import Figure, verdict_on
from fast_inference.bench.interruption import Interruption, errors_as_exits
from fast_inference.bench.strangers import GARBAGE, KINDS, answer_to, num_messages_to
from fast_inference.bench.two_hosts import ADDRESSES, CORES, FRONTENDS, TwoHosts
from fast_inference.child import child_environment
from fast_inference.cli_bench import split_at_dashes
from fast_inference.model_cache import models_dir
from ipc.curve import CurveDir
from ipc.endpoints import RunDir
from ipc.errors import ConfigError
from ipc.messages import CallMethod, ClientRole
from ipc.process import die_with_parent
from ipc.sync_client import SyncEngineClient

PARTS = ("strangers", "cut", "kill")
PORT = 5555
LEASE_S = 10.0
REFUSED_AFTER_S = 6.0
"""A frontend refuses requests when it has heard no core for 5 s."""


class Hosts:
    """The servers on both hosts, and who may look at them."""

    def __init__(self, network: TwoHosts, folder: Path, arguments: argparse.Namespace, core_flags: list[str]) -> None:
        self.network = network
        self.num_cores: int = arguments.cores
        self.folders = {host: folder / host for host in (CORES, FRONTENDS)}
        for each in self.folders.values():
            each.mkdir()
        self.keys = {host: CurveDir(each / "keys") for host, each in self.folders.items()}
        self.keys[CORES].make("frontends")
        own = self.keys[FRONTENDS].clients_dir
        own.mkdir(parents=True)
        shutil.copy(self.keys[CORES].path / "server.key", self.keys[FRONTENDS].path)
        (self.keys[CORES].clients_dir / "frontends.key_secret").rename(own / "frontends.key_secret")
        self._model_flags = [arguments.model, *core_flags]
        if arguments.model == "fake":
            self._model_flags += ["--fake-step-ms", str(arguments.step_ms)]
        self._exits = ExitStack()
        self.url = ""

    @property
    def endpoints(self) -> list[str]:
        """Of the cores."""
        return [f"tcp://{ADDRESSES[CORES]}:{PORT + number}" for number in range(self.num_cores)]

    def __enter__(self) -> "Hosts":
        keys = ["--curve-dir", str(self.keys[CORES].path)]
        for number, endpoint in enumerate(self.endpoints):
            flags = [*self._model_flags, "--frontends", "0", "--core-endpoint", endpoint, *keys]
            self._start(CORES, f"core-{number}", flags, without=[self.folders[FRONTENDS]])
        connect = [flag for endpoint in self.endpoints for flag in ("--connect", endpoint)]
        keys = ["--curve-dir", str(self.keys[FRONTENDS].path), "--curve-client", "frontends"]
        without = [self.folders[CORES], *([models_dir()] if models_dir().is_dir() else [])]
        line = self._start(FRONTENDS, "server", ["--port", "8000", *connect, *keys], without=without)
        self.url = line.split()[1]
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    def _start(self, host: str, name: str, flags: Sequence[str], without: Sequence[Path]) -> str:
        """A server on a host; returns its ready line."""
        argv = [sys.executable, "-P", "-m", "fast_inference", "serve", *flags]
        argv += ["--run-dir", str(self.folders[host] / name), "--log-level", "error"]
        environment = child_environment() | {"XDG_CACHE_HOME": str(self.folders[FRONTENDS] / "cache")}
        process = subprocess.Popen(
            self.network.command(host, argv, without),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment if host == FRONTENDS else child_environment(),
            start_new_session=True,
            preexec_fn=die_with_parent,
            text=True,
        )
        self._exits.callback(_stop, process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("ready: "):
            raise ConfigError(f"{name} on the host of the {host} ended before it was ready")
        return line

    def run_dir(self, number: int) -> RunDir:
        """Of the server with one core."""
        return RunDir(self.folders[CORES] / f"core-{number}")

    def core_pid(self, number: int) -> int:
        """The process of a core."""
        pid: int = json.loads(self.run_dir(number).status_file.read_text())["core"]["pid"]
        return pid

    @contextmanager
    def admin(self, number: int = 0) -> Iterator[SyncEngineClient]:
        """A client of a core through its socket, past the network."""
        with SyncEngineClient(self.run_dir(number).core_socket, name="check", role=ClientRole.ADMIN) as client:
            client.wait_ready(20)
            yield client

    def stats(self, number: int = 0) -> dict[str, int | float | str]:
        """Of a core."""
        with self.admin(number) as client:
            return client.call(CallMethod.STATS)

    def num_free_blocks(self) -> int:
        """Of all cores together."""
        return sum(int(self.stats(number)["num_free_blocks"]) for number in range(self.num_cores))


def _stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def strangers(hosts: Hosts, folder: Path) -> list[Figure]:
    """What those get who have no key, and whether anything of what they send is read."""
    before, address = hosts.stats(), (ADDRESSES[CORES], PORT)
    core_key = hosts.keys[CORES].server_public_key()
    num_read = sum(num_messages_to(kind, hosts.endpoints[0], core_key, folder / kind) for kind in KINDS)
    answers = {name: answer_to(address, data) for name, data in GARBAGE.items()}
    time.sleep(1.0)
    after = hosts.stats()
    counted = {name: int(after[name]) - int(before[name]) for name in ("num_refused_keys", "num_bad_messages")}
    longest = max(len(data) for data, _ in answers.values())
    print(f"strangers: counted {counted}; answers to {', '.join(answers)}: at most {longest} bytes (libzmq's greeting)")
    sampled = int(after["num_sampled_tokens"]) - int(before["num_sampled_tokens"])
    return [
        Figure("strangers: messages to those without a right key", num_read, 0),
        Figure("strangers: keys refused and counted", counted["num_refused_keys"], 1, is_minimum=True),
        Figure("strangers: tokens computed for them", sampled, 0),
        Figure("strangers: bytes in the longest answer to garbage", longest, 64, "bytes"),
        Figure("strangers: connections still open after 5 s", sum(is_open for _, is_open in answers.values()), 0),
        Figure("strangers: connections that were cut and counted", counted["num_bad_messages"], 3, is_minimum=True),
    ]


@dataclass(slots=True)
class Stream:
    """What one request got."""

    status: int = 0
    text: str = ""
    error: str = ""
    """Code of an error event, or what broke the connection."""
    is_done: bool = False
    longest_gap_s: float = 0.0
    retry_after: str = ""


class Load:
    """Streams through the frontends."""

    def __init__(self, hosts: Hosts, arguments: argparse.Namespace) -> None:
        self._hosts = hosts
        self._num_streams: int = arguments.streams
        self._num_tokens: int = arguments.tokens
        self._begun: set[int] = set()
        self._all_begun = asyncio.Event()

    def _note_begun(self, number: int) -> None:
        self._begun.add(number)
        if len(self._begun) >= self._num_streams:
            self._all_begun.set()

    async def one(self, client: httpx.AsyncClient, number: int, num_tokens: int) -> Stream:
        """A stream to its end."""
        stream, times = Stream(), [time.monotonic()]
        body = {"model": "fast-inference-model", "prompt": f"Story {number}:", "max_tokens": num_tokens}
        body |= {"temperature": 0, "stream": True, "ignore_eos": True}
        try:
            async with client.stream("POST", f"{self._hosts.url}/v1/completions", json=body) as response:
                stream.status = response.status_code
                stream.retry_after = response.headers.get("retry-after", "")
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        self._note_begun(number)
                        times.append(time.monotonic())
                        event = json.loads(line.removeprefix("data: "))
                        stream.error = event.get("error", {}).get("code") or ""
                        stream.text += "".join(choice["text"] for choice in event.get("choices", ()))
                    stream.is_done |= line == "data: [DONE]"
        except httpx.HTTPError as error:
            stream.error = f"{type(error).__name__}: {error}"
        self._note_begun(number)
        stream.longest_gap_s = max((later - earlier for earlier, later in pairwise(times)), default=0.0)
        return stream

    async def all(
        self, disturb: Callable[[httpx.AsyncClient], "asyncio.Future[None] | None"] | None = None
    ) -> list[Stream]:
        """All streams; `disturb` is called once each has begun."""
        self._begun, self._all_begun = set(), asyncio.Event()
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=120.0, limits=limits) as client:
            asking = [
                asyncio.create_task(self.one(client, number, self._num_tokens)) for number in range(self._num_streams)
            ]
            await self._all_begun.wait()
            disturbing = disturb(client) if disturb is not None else None
            if disturbing is not None:
                await disturbing
            return list(await asyncio.gather(*asking))


def cut(hosts: Hosts, load: Load, calm: Sequence[Stream], how: str, interruption: Interruption) -> list[Figure]:
    """A cut of the link while streams run, and new requests during it."""
    kind, _, text = how.partition(":")
    cut_s, name = float(text), f"cut {how} s"
    num_free = hosts.num_free_blocks()
    newcomers: list[tuple[float, Stream]] = []
    mended_at = 0.0

    async def come(client: httpx.AsyncClient, began_at: float, number: int) -> None:
        came_at = time.monotonic() - began_at
        newcomers.append((came_at, await load.one(client, 1000 + number, 2)))

    async def disturb(client: httpx.AsyncClient) -> None:
        nonlocal mended_at
        hosts.network.drop_packets() if kind == "drop" else hosts.network.unplug()
        began_at, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while time.monotonic() - began_at < cut_s:
                group.create_task(come(client, began_at, number))
                number += 1
                await asyncio.sleep(min(1.0, max(0.0, began_at + cut_s - time.monotonic())))
            hosts.network.mend()
            mended_at = time.monotonic()

    streams = interruption.run(lambda: load.all(lambda client: asyncio.ensure_future(disturb(client))))
    resumed_s = time.monotonic() - mended_at
    after = interruption.run(load.all)
    num_exact = sum(one.text == before.text and one.is_done for one, before in zip(streams, calm, strict=True))
    num_errors = sum(bool(stream.error) and not stream.is_done for stream in streams)
    late = [stream for came_at, stream in newcomers if REFUSED_AFTER_S < came_at < cut_s - 1.0]
    early = [stream for came_at, stream in newcomers if came_at <= min(REFUSED_AFTER_S, cut_s)]
    num_refused = sum(stream.status == 503 and bool(stream.retry_after) for stream in late)
    answered = sum(stream.is_done for stream in early)
    pause_s = max(stream.longest_gap_s for stream in streams)
    print(
        f"{name}: {len(streams)} streams: {num_exact} complete and exact, {num_errors} ended in an error event; "
        f"longest pause {pause_s:.1f} s; all over {resumed_s:.1f} s after the link was back; new requests: of "
        f"{len(early)} in the first {REFUSED_AFTER_S:.0f} s {answered} were answered later, of {len(late)} behind that "
        f"{num_refused} got 503 with Retry-After"
    )
    while hosts.num_free_blocks() < num_free and time.monotonic() - mended_at < 60:
        time.sleep(0.2)
    exact = [Figure(f"{name}: streams complete and exact", num_exact, len(streams), is_minimum=True)]
    return [
        *(exact if cut_s < LEASE_S else []),
        Figure(f"{name}: streams neither exact nor ended in an error", len(streams) - num_exact - num_errors, 0),
        Figure(f"{name}: new requests not refused as they should be", len(late) - num_refused, 0),
        Figure(f"{name}: longest pause beyond the cut", pause_s - cut_s, 15, "s"),
        Figure(f"{name}: streams afterwards, exact", _num_equal(after, calm), len(calm), is_minimum=True),
        Figure(f"{name}: KV cache blocks that are not free again", num_free - hosts.num_free_blocks(), 0),
    ]


def kill(hosts: Hosts, load: Load, calm: Sequence[Stream], interruption: Interruption) -> list[Figure]:
    """The death of one of several cores, on the other host."""
    pid = hosts.core_pid(hosts.num_cores - 1)
    streams = interruption.run(lambda: load.all(lambda client: os.kill(pid, signal.SIGKILL)))
    gap_s, calm_gap_s = (max(stream.longest_gap_s for stream in of) for of in (streams, calm))
    print(f"kill: longest pause of {len(streams)} streams {gap_s:.2f} s, undisturbed {calm_gap_s:.2f} s")
    return [
        Figure("kill: streams complete and exact", _num_equal(streams, calm), len(calm), is_minimum=True),
        Figure("kill: longest pause", gap_s, 4.0, "s"),
    ]


def _num_equal(streams: Sequence[Stream], calm: Sequence[Stream]) -> int:
    return sum(one.is_done and one.text == before.text for one, before in zip(streams, calm, strict=True))


def main() -> None:
    """Run the parts and judge."""
    parser = argparse.ArgumentParser(description="frontends and cores on two hosts, as network namespaces")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all of them without")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--step-ms", type=float, default=20, help="of the fake model")
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=300, help="of each stream")
    parser.add_argument("--cuts", nargs="+", default=["drop:3", "unplug:3", "drop:30"], metavar="HOW:SECONDS")
    own_flags, core_flags = split_at_dashes(sys.argv[1:])
    arguments = parser.parse_args(own_flags)
    parts = arguments.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part is called {min(unknown)}")
    figures: list[Figure] = []
    with (
        errors_as_exits(),
        Interruption() as interruption,
        tempfile.TemporaryDirectory(prefix="fi-") as folder,
        TwoHosts() as network,
        Hosts(network, Path(folder), arguments, core_flags) as hosts,
    ):
        if "strangers" in parts:
            figures += strangers(hosts, Path(folder))
        load = Load(hosts, arguments)
        calm = interruption.run(load.all) if {"cut", "kill"} & {*parts} else []
        for how in arguments.cuts if "cut" in parts else ():
            figures += cut(hosts, load, calm, how, interruption)
        if "kill" in parts and arguments.cores > 1:
            figures += kill(hosts, load, calm, interruption)
    print(*figures, sep="\n")
    sys.exit(verdict_on(figures))


if __name__ == "__main__":
    main()
