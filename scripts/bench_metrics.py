#!/usr/bin/env python3
"""What a scrape of /metrics costs, and what it does to engine steps, on this machine.

    scripts/bench_metrics.py                                    # the fake model, steps of 4 ms
    scripts/bench_metrics.py --model smollm2-135m-instruct --requests 16

First the core is idle: the CPU time that it spends on a scrape, all of it on its I/O thread, is the most that a scrape
can hold up a step inside the core. Then a client of the core keeps requests running and takes the time of each STEP;
meanwhile one connection after the other is asked for /metrics, with pauses, by a process of its own. Steps with a
scrape in them are compared with the others of the same run; where there are few CPUs, the difference holds what the
processes of a scrape take from those of a step. Some other routes are asked before, so that there are series of them.

Goals: a scrape takes less than 10 ms (p99), and costs the core and delays a step by less than 1 ms (mean). Ends with
status 1 where one is missed. Nothing else should run on the machine.
"""

import argparse
import asyncio
import http.client
import math
import multiprocessing
import statistics
import sys
import time
import urllib.parse
from bisect import bisect_left
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.bench.own_server import OwnServer, own_server
from ipc.client import EngineClient, RequestStream
from ipc.messages import ClientRole
from ipc.sampling_params import SamplingParams

MAX_SCRAPE_MS = 10.0
MAX_DELAY_MS = 1.0
PROMPT_TOKENS = 16
READY_TIMEOUT_S = 120.0
HANDLERS = ("/health", "/v1/models", "/load", "/server_info", "/version", "/v1/models/x", "/no/such/route")
"""Asked once each, so that there are series of them."""

Interval = tuple[float, float]
"""Begin and end, `perf_counter`, which all processes of a machine share."""


def scrape(url: str, pause_s: float, num_connections: int, num_idle: int, pipe: Connection) -> None:
    """Scrape so many times at once, then until told to stop; sends the times, and the size of the last text."""
    address = urllib.parse.urlsplit(url).netloc
    connections = [http.client.HTTPConnection(address, timeout=20) for _ in range(num_connections)]
    for connection in connections:
        for path in (*HANDLERS, "/metrics"):
            connection.request("GET", path)
            connection.getresponse().read()
    pipe.send("ready")
    pipe.recv()
    for number in range(num_idle):
        connections[number % len(connections)].request("GET", "/metrics")
        connections[number % len(connections)].getresponse().read()
    pipe.send("done")
    pipe.recv()
    scrapes: list[Interval] = []
    num_bytes = 0
    while not pipe.poll(pause_s):
        connection = connections[len(scrapes) % len(connections)]
        began_at = time.perf_counter()
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        num_bytes = len(answer.read())
        if answer.status != 200:
            raise SystemExit(f"/metrics answers {answer.status}")
        scrapes.append((began_at, time.perf_counter()))
    pipe.send((scrapes, num_bytes))


async def watch_steps(server: OwnServer, arguments: argparse.Namespace, pipe: Connection) -> list[float]:
    """Keep requests running; returns when each step of the time was heard of."""
    client = EngineClient(server.run_dir.core_socket, name="bench", role=ClientRole.ADMIN)
    await client.start()
    steps_at: list[float] = []
    streams: list[RequestStream] = []
    try:
        await client.wait_ready(READY_TIMEOUT_S)
        params = SamplingParams(max_tokens=arguments.max_tokens, ignore_eos=True)
        prompts = ([number % 50 + 1] * PROMPT_TOKENS for number in range(arguments.requests))
        streams += [client.submit(prompt, params) for prompt in prompts]
        await asyncio.gather(*(anext(stream) for stream in streams))
        pipe.send("begin")
        end_at = time.perf_counter() + arguments.seconds
        async for output in streams[0]:
            steps_at.append(time.perf_counter())
            if steps_at[-1] > end_at:
                break
            if output.finished is not None:
                raise SystemExit("the requests ended too early: use a larger --max-tokens")
    finally:
        pipe.send("end")
        for stream in streams:
            stream.abort()
        await client.close()
    return steps_at


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, by the scheduler's own count."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) / 1e9 for task in tasks)


def core_ms_of_scrape(server: OwnServer, num_scrapes: int, pipe: Connection) -> float:
    """CPU time of an idle core for a scrape, less what it spends anyway."""
    pid = server.core_pid
    if pid is None:
        raise SystemExit("the core is gone")
    before, began_at = cpu_seconds(pid), time.perf_counter()
    pipe.send("scrape")
    pipe.recv()
    used_s, elapsed_s = cpu_seconds(pid) - before, time.perf_counter() - began_at
    before = cpu_seconds(pid)
    time.sleep(elapsed_s)
    return (used_s - (cpu_seconds(pid) - before)) / num_scrapes * 1e3


def step_times_ms(steps_at: list[float], scrapes: list[Interval]) -> tuple[list[float], list[float]]:
    """Times of the steps with a scrape in them, and of the others."""
    ends = [end for _, end in scrapes]
    with_scrape: list[float] = []
    without: list[float] = []
    for before, after in pairwise(steps_at):
        first = bisect_left(ends, before)
        has_scrape = first < len(scrapes) and scrapes[first][0] < after
        (with_scrape if has_scrape else without).append((after - before) * 1e3)
    return with_scrape, without


def p99(values: list[float]) -> float:
    """The value that 99 % do not exceed."""
    return sorted(values)[math.ceil(len(values) * 0.99) - 1]


def report(core_ms: float, steps_at: list[float], scrapes: list[Interval], num_bytes: int) -> int:
    """Print it; returns the exit status."""
    scrape_ms = [(end - begin) * 1e3 for begin, end in scrapes]
    with_scrape, without = step_times_ms(steps_at, scrapes)
    if not with_scrape or not without:
        raise SystemExit("no steps with a scrape, or none without: change --pause-ms")
    delay_ms = p99(with_scrape) - p99(without)
    mean_delay_ms = statistics.fmean(with_scrape) - statistics.fmean(without)
    print(
        f"scrape: {statistics.median(scrape_ms):.2f} ms (p50), {p99(scrape_ms):.2f} ms (p99), {max(scrape_ms):.2f} ms "
        f"(max) of {len(scrapes)}, {num_bytes / 1024:.0f} KiB; goal {MAX_SCRAPE_MS:.0f} ms (p99)"
    )
    print(f"CPU time of the core for a scrape: {core_ms:.3f} ms; goal {MAX_DELAY_MS:.0f} ms")
    for name, times in (("steps with a scrape", with_scrape), ("other steps", without)):
        print(
            f"{name}: {statistics.median(times):.2f} ms (p50), {p99(times):.2f} ms (p99), {max(times):.2f} ms (max) "
            f"of {len(times)}"
        )
    print(f"delay of a step: {mean_delay_ms:.3f} ms (mean), {delay_ms:.3f} ms (p99); goal {MAX_DELAY_MS:.0f} ms (mean)")
    return int(p99(scrape_ms) >= MAX_SCRAPE_MS or max(core_ms, mean_delay_ms) >= MAX_DELAY_MS)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="what a scrape of /metrics costs, and what it does to steps")
    parser.add_argument("--model", default="fake", help="as for serve")
    parser.add_argument("--fake-step-ms", type=float, default=4.0, help="time of a step of the fake model")
    parser.add_argument("--requests", type=int, default=64, help="requests that run side by side")
    parser.add_argument("--max-tokens", type=int, default=1900, help="of each, more than there are steps in the time")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long")
    parser.add_argument("--idle-scrapes", type=int, default=200, help="scrapes of an idle server, one after the other")
    parser.add_argument("--pause-ms", type=float, default=40.0, help="between two scrapes")
    parser.add_argument("--frontends", type=int, default=2, help="frontends; each has a connection")
    arguments = parser.parse_args()
    flags = [arguments.model, "--frontends", str(arguments.frontends), "--max-num-seqs", str(arguments.requests)]
    if arguments.model == "fake":
        flags += ["--fake-step-ms", str(arguments.fake_step_ms), "--num-blocks", str(64 * arguments.requests)]
    context = multiprocessing.get_context("spawn")
    with own_server(flags) as server:
        pipe, other_end = context.Pipe()
        scraping = context.Process(
            target=scrape,
            args=(server.url, arguments.pause_ms / 1000, arguments.frontends, arguments.idle_scrapes, other_end),
            daemon=True,
        )
        scraping.start()
        pipe.recv()
        core_ms = core_ms_of_scrape(server, arguments.idle_scrapes, pipe)
        steps_at = uvloop.run(watch_steps(server, arguments, pipe))
        scrapes, num_bytes = pipe.recv()
        scraping.join(10)
    return report(core_ms, steps_at, scrapes, num_bytes)


if __name__ == "__main__":
    sys.exit(main())
