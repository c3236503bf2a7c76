#!/usr/bin/env python3
"""Two servers behind an HTTP router: one of them is killed under load and started again, and no request is lost.

    scripts/check_router.py                                        # gets vllm-router into an environment of its own
    scripts/check_router.py --router ~/venvs/router/bin/vllm-router
    scripts/check_router.py --router 'smg launch' --requests 500
    scripts/check_router.py --model smollm2-135m-instruct -- --policy cache_aware   # flags of the router after --

Half of the requests are streams. After a quarter of the answers one server (its launcher, and with it all it runs)
gets `kill -9`, and is started again at once on the same port. A client does what OpenAI's does: it asks again where an
answer does not come, breaks off or is a 5xx, here up to `--tries` times. Exit status 1 if a request has no answer in
the end, if an answer is not the one that an undisturbed server gives, or if a try hangs for longer than `--timeout`.
"""

import argparse
import asyncio
import contextlib
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.bench.answer import read_events
from fast_inference.bench.connection import Client, Exchange
from fast_inference.bench.goals import Figure, verdict_on
from fast_inference.bench.interruption import Interruption, errors_as_exits
from fast_inference.bench.target import RequestOptions, Target
from fast_inference.bench.workload import Load, RandomPrompts
from fast_inference.child import child_environment
from fast_inference.cli_bench import split_at_dashes
from ipc.errors import ConfigError
from ipc.process import die_with_parent

ROUTER_PACKAGE = "vllm-router==0.1.17"
PROMPT_WORDS = 12
START_TIMEOUT_S = 120.0
PAUSE_S = 0.5
"""Before a client asks again."""


def free_port() -> int:
    """A port that nobody uses at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Process:
    """A program that answers `/health` on a port of its own."""

    def __init__(self, command: Sequence[str], port: int, log_file: Path) -> None:
        self._command = command
        self._log_file = log_file
        self.url = f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        """Start it, again too.

        Raises:
            ConfigError: there is no such program.
        """
        with self._log_file.open("a") as log:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=child_environment(),
                    preexec_fn=die_with_parent,
                )
            except OSError as error:
                raise ConfigError(f"cannot start {self._command[0]}: {error.strerror}") from error

    def wait_ready(self) -> None:
        """Wait until it is healthy.

        Raises:
            ConfigError: it has ended, or takes too long.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2):
                return
            if self._process.poll() is not None:
                raise ConfigError(f"{self._command[0]} ended: {self._log_file.read_text()[-2000:]}")
            time.sleep(0.1)
        raise ConfigError(f"{self._command[0]} is not ready: {self._log_file.read_text()[-2000:]}")

    def kill(self) -> None:
        """`kill -9`."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it in order."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()


@dataclass
class Outcome:
    """What became of the requests."""

    tries: Counter[int] = field(default_factory=Counter)
    """Requests by the number of tries that they took."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Of tries that failed."""
    num_lost: int = 0
    num_wrong: int = 0
    num_hung: int = 0
    longest_s: float = 0.0
    """From the first try to the answer."""


def text_of(exchange: Exchange) -> str | None:
    """The whole text of an answer, or None where there is none: smg sends `[DONE]` behind an error, too."""
    if exchange.failure is not None or exchange.status != 200:
        return None
    body = bytes(exchange.body)
    if not body.startswith(b"data:"):
        text: str = orjson.loads(body)["choices"][0]["text"]
        return text
    data = [data for _, data in read_events(body)]
    if not data or data[-1] != b"[DONE]":
        return None
    events = [orjson.loads(event) for event in data[:-1]]
    if any("error" in event for event in events):
        return None
    return "".join(choice["text"] for event in events for choice in event["choices"])


def why_failed(exchange: Exchange) -> str:
    """In few words."""
    if exchange.failure is not None:
        return exchange.failure.reason
    return "stream ended early" if exchange.status == 200 else f"status {exchange.status}"


class Requests:
    """The same requests, to one server or another."""

    def __init__(self, arguments: argparse.Namespace, model: str) -> None:
        self._arguments, self._model = arguments, model
        load = Load(arguments.requests, PROMPT_WORDS, arguments.tokens, concurrency=arguments.concurrency)
        self._prompts = RandomPrompts(arguments.seed).prompts(load, arguments.requests, 0)

    def bytes_for(self, url: str) -> list[bytes]:
        """One request each; every other one is a stream."""
        target = Target.parse(url)
        target = Target(target.name, target.host, target.port, target.root, self._model)
        whole = {"stream": False, "stream_options": None}
        bodies = [RequestOptions(extra_body={} if number % 2 else whole) for number in range(len(self._prompts))]
        return [target.request(prompt, options) for prompt, options in zip(self._prompts, bodies, strict=True)]


async def undisturbed(requests: Sequence[bytes], url: str, concurrency: int) -> list[str]:
    """The answer to each.

    Raises:
        ConfigError: one has none.
    """
    target = Target.parse(url)
    answers: dict[int, str] = {}
    numbers = iter(range(len(requests)))

    async def ask(client: Client) -> None:
        for number in numbers:
            exchange = await client.exchange(requests[number])
            text = text_of(exchange)
            if text is None:
                raise ConfigError(f"an undisturbed request failed: {why_failed(exchange)}")
            answers[number] = text

    async with Client(target.host, target.port) as client, asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(ask(client))
    return [answers[number] for number in range(len(requests))]


async def disturbed(
    requests: Sequence[bytes], expected: Sequence[str], router: Process, victim: Process, arguments: argparse.Namespace
) -> Outcome:
    """Send all, and kill the victim when a quarter is answered."""
    outcome, target = Outcome(), Target.parse(router.url)
    numbers = iter(range(len(requests)))
    num_answered = 0
    is_time = asyncio.Event()

    async def ask(client: Client, number: int) -> None:
        nonlocal num_answered
        began = time.monotonic()
        for count in range(1, arguments.tries + 1):
            exchange = await client.exchange(requests[number])
            text = text_of(exchange)
            if text is not None:
                outcome.tries[count] += 1
                outcome.num_wrong += text != expected[number]
                break
            outcome.reasons[why_failed(exchange)] += 1
            outcome.num_hung += exchange.failure is not None and exchange.failure.reason == "timeout"
            await asyncio.sleep(PAUSE_S)
        else:
            outcome.num_lost += 1
        outcome.longest_s = max(outcome.longest_s, time.monotonic() - began)
        num_answered += 1
        if num_answered == len(requests) // 4:
            is_time.set()

    async def ask_one_after_the_other(client: Client) -> None:
        for number in numbers:
            await ask(client, number)

    async def disturb() -> None:
        await is_time.wait()
        victim.kill()
        victim.start()

    async with (
        Client(target.host, target.port, keep_alive=False, timeout_s=arguments.timeout) as client,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(disturb())
        for _ in range(arguments.concurrency):
            group.create_task(ask_one_after_the_other(client))
    return outcome


@contextlib.contextmanager
def processes(arguments: argparse.Namespace, router_flags: Sequence[str]) -> Iterator[tuple[Process, list[Process]]]:
    """The router and the two servers, ready."""
    with tempfile.TemporaryDirectory(prefix="fast-inference-router-") as name, contextlib.ExitStack() as exits:
        folder = Path(name)
        program = shlex.split(arguments.router) if arguments.router else [str(install_router(folder / "venv"))]
        servers = []
        for index in range(2):
            port = free_port()
            command = [sys.executable, "-P", "-m", "fast_inference", "serve", arguments.model, "--port", str(port)]
            command += ["--run-dir", str(folder / f"run{index}"), "--state-dir", str(folder / f"state{index}")]
            command += ["--frontends", "1", "--log-level", "warning"]
            if arguments.model == "fake":
                command += ["--fake-step-ms", str(arguments.step_ms)]
            servers.append(Process(command, port, folder / f"server{index}.log"))
            exits.callback(servers[-1].stop)
        for server in servers:
            server.wait_ready()
        port = free_port()
        flags = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
        flags += ["--worker-urls", *(server.url for server in servers), *router_flags]
        router = Process([*program, *flags], port, folder / "router.log")
        exits.callback(router.stop)
        router.wait_ready()
        yield router, servers


def install_router(folder: Path) -> Path:
    """vllm-router in an environment of its own; returns the program."""
    print(f"installing {ROUTER_PACKAGE}", file=sys.stderr)
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin/pip", "install", "-q", "--disable-pip-version-check", ROUTER_PACKAGE], check=True)
    return folder / "bin/vllm-router"


def main() -> None:
    """Disturb, count and judge."""
    parser = argparse.ArgumentParser(description="two servers behind a router, one of them killed under load")
    parser.add_argument("--router", help="command of a router; without it, vllm-router is installed for this run")
    parser.add_argument("--model", default="fake")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=25, help="of each answer")
    parser.add_argument("--step-ms", type=float, default=20, help="of the fake model")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--tries", type=int, default=6)
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds after which a try counts as hanging")
    parser.add_argument("--seed", type=int, default=0)
    own_flags, router_flags = split_at_dashes(sys.argv[1:])
    arguments = parser.parse_args(own_flags)
    router_flags = router_flags or ["--policy", "round_robin"]
    with errors_as_exits(), Interruption() as interruption, processes(arguments, router_flags) as (router, servers):
        kept, victim = servers
        model = orjson.loads(urllib.request.urlopen(f"{kept.url}/v1/models", timeout=20).read())["data"][0]["id"]
        requests = Requests(arguments, model)
        expected = interruption.run(lambda: undisturbed(requests.bytes_for(kept.url), kept.url, arguments.concurrency))
        outcome = interruption.run(
            lambda: disturbed(requests.bytes_for(router.url), expected, router, victim, arguments)
        )
        victim.wait_ready()
    tries = ", ".join(f"{count} after {number} tries" for number, count in sorted(outcome.tries.items()))
    print(f"answered: {tries}; longest {outcome.longest_s:.1f} s; tries that failed: {dict(outcome.reasons)}")
    figures = [
        Figure("requests that got their answer", outcome.tries.total(), arguments.requests, is_minimum=True),
        Figure("requests without an answer", outcome.num_lost, 0),
        Figure("answers that are not those of an undisturbed server", outcome.num_wrong, 0),
        Figure("tries that hung", outcome.num_hung, 0),
    ]
    print(*figures, sep="\n")
    sys.exit(verdict_on(figures))


if __name__ == "__main__":
    main()
