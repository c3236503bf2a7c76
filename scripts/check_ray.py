#!/usr/bin/env python3
"""`serve --executor ray` on a test cluster of this machine: a node dies, the load grows, the Ray head goes away.

    scripts/check_ray.py                       # all parts, with the fake model
    scripts/check_ray.py node --streams 8 --stream-tokens 100
    scripts/check_ray.py scale head --json result.json

    node   streams on two cores on two of three nodes; one of these nodes is killed (its raylet and all it runs): the
           core comes back on the third one, and each stream ends with the text of an undisturbed run
    scale  `--cores 1:3` under a load that queues, then under a light one: 1, 3 and 1 cores, and no failed request
    head   streams while the Ray head's server (GCS) is killed and away for some seconds; then a node is killed, to
           see that Ray and the fleet work again. Its state is kept by Ray's embedded storage (RAY_gcs_storage=rocksdb)
    lost   the directory of the fleet and the agent get `kill -9` under streams: nobody notices, and both come back
    join   two servers with one fleet: the second one uses the cores of the first, and keeps them when that one ends
    crash  the launcher gets `kill -9`: after the lease nothing of its fleet is left

Exit status 1 if a goal is missed. The cluster is `ray.cluster_utils.Cluster`: a head without CPUs and three nodes, with
health checks that see a lost node in about 2 s (Ray's own defaults take about 15 s).
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.bench.answer import read_answer, read_events
from fast_inference.bench.goals import Figure, verdict_on
from fast_inference.bench.interruption import Interruption, errors_as_exits
from fast_inference.bench.own_server import OwnServer, own_server
from fast_inference.bench.target import RequestOptions, Target
from fast_inference.bench.workload import Load, Prompt, RandomPrompts
from fast_inference.ray_executor.fleet_state import FleetCore, FleetState
from ipc.errors import ConfigError

PARTS = ("node", "scale", "head", "lost", "join", "crash")
OPTIONS = RequestOptions(extra_body={"timings": True}, timeout_s=180.0)
NUM_NODES = 3
RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_storage": "rocksdb",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
}
COME_BACK_S = 60.0
SAMPLE_EVERY = 5
LOST_GAP_S = 1.0
"""A stream that pauses for longer has lost its core."""


class TestCluster:
    """A Ray cluster of several nodes on this machine, with nothing but what it needs."""

    def __init__(self, num_nodes: int, cpus: int = 1) -> None:
        self._storage = tempfile.mkdtemp(prefix="fast-inference-gcs-")
        os.environ.update(RAY_ENVIRONMENT, RAY_gcs_storage_path=self._storage)
        os.environ.pop("RAY_ADDRESS", None)
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        nodes = [self._cluster.add_node(wait=False, num_cpus=cpus) for _ in range(num_nodes)]
        self._cluster.wait_for_nodes()
        self._nodes = {node.node_id: node for node in nodes}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._cluster.shutdown()
        shutil.rmtree(self._storage, ignore_errors=True)

    @property
    def address(self) -> str:
        """Of the head."""
        return str(self._cluster.address)

    def kill_node(self, core: FleetCore) -> None:
        """`kill -9` for the node of a core: its raylet, and the actor with the core."""
        assert core.pid is not None
        actor_pid = parent_of(core.pid)
        for pid in (self._nodes[core.node_id].all_processes["raylet"][0].process.pid, actor_pid):
            os.kill(pid, signal.SIGKILL)

    def actors(self, name: str) -> list[int]:
        """Processes of the actors of this class."""
        nodes = (self._cluster.head_node, *self._nodes.values())
        raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
        return [pid for raylet in raylets for pid in children_of(raylet, f"ray::{name}")]

    def stop_head(self) -> None:
        """`kill -9` for the GCS."""
        self._cluster.head_node.kill_gcs_server()

    def start_head(self) -> None:
        """It comes back with what it had stored."""
        self._cluster.head_node.start_gcs_server()


def parent_of(pid: int) -> int:
    """The process that started this one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(parent: int, title: str) -> list[int]:
    """Those of its processes that have this in their command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if title.encode() in (folder / "cmdline").read_bytes() and parent_of(int(folder.name)) == parent:
                found.append(int(folder.name))
    return found


def is_running(pid: int) -> bool:
    """True if there is such a process and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def fleet_of(server: OwnServer) -> FleetState:
    """What the agent says now."""
    return FleetState.read(server.run_dir.fleet_file)


async def until(condition: Callable[[], bool], timeout_s: float) -> float:
    """Wait for it; returns the seconds that took, NaN if it did not come."""
    began = time.monotonic()
    while time.monotonic() - began < timeout_s:
        if condition():
            return time.monotonic() - began
        await asyncio.sleep(0.05)
    return float("nan")


@dataclass(frozen=True, slots=True)
class Answer:
    """One stream, read to its end."""

    text: str
    cores: tuple[str, ...]
    """Names of those that computed it."""
    longest_gap_s: float
    """Between two chunks of text."""
    failure: str = ""


async def ask(server: OwnServer, prompts: Sequence[Prompt], concurrency: int) -> list[Answer]:
    """The answers to all, in order of the prompts, with so many of them at once; failures are among them."""
    target = await Target.parse(server.url).with_model(OPTIONS, None)
    numbers = iter(range(len(prompts)))
    answers: dict[int, Answer] = {}
    async with target.client(OPTIONS) as client, asyncio.TaskGroup() as group:

        async def ask_one_after_the_other() -> None:
            for number in numbers:
                exchange = await client.exchange(target.request(prompts[number], OPTIONS))
                result = read_answer(exchange)
                if result.failure is not None:
                    answers[number] = Answer("", (), 0.0, result.failure.text)
                    continue
                events = [orjson.loads(data) for _, data in read_events(bytes(exchange.body)) if data != b"[DONE]"]
                cores = next(event["timings"]["cores"] for event in events if "timings" in event)
                text = "".join(choice["text"] for event in events for choice in event["choices"])
                gaps = [later - earlier for earlier, later in pairwise(result.chunk_times)]
                answers[number] = Answer(text, tuple(cores), max(gaps, default=0.0))

        for _ in range(concurrency):
            group.create_task(ask_one_after_the_other())
    return [answers[number] for number in range(len(prompts))]


def judge(name: str, answers: Sequence[Answer], calm: Sequence[Answer]) -> list[Figure]:
    """That none failed, and that all have the text of the undisturbed run."""
    failures = Counter(answer.failure for answer in answers if answer.failure)
    for failure, count in failures.items():
        print(f"{name}: {count} x {failure}")
    num_exact = sum(answer.text == before.text for answer, before in zip(answers, calm, strict=True))
    return [
        Figure(f"{name}: failed requests", failures.total(), 0),
        Figure(f"{name}: streams with the text of an undisturbed run", num_exact, len(answers), is_minimum=True),
    ]


def stream_prompts(arguments: argparse.Namespace, seed: int) -> list[Prompt]:
    """For as many streams at once."""
    load = Load(arguments.streams, 12, arguments.stream_tokens, concurrency=arguments.streams)
    return RandomPrompts(seed).prompts(load, arguments.streams)


def flags_of(cluster: TestCluster, arguments: argparse.Namespace, *flags: str) -> list[str]:
    """Of a server with two frontends on this cluster."""
    ray = ["--executor", "ray", "--ray-address", cluster.address]
    return ["fake", "--frontends", "2", "--fake-step-ms", str(arguments.step_ms), *ray, *flags]


def check_node(arguments: argparse.Namespace, interruption: Interruption) -> list[Figure]:
    """A node is killed under streams."""
    prompts = stream_prompts(arguments, 1)
    flags = ["--cores", str(arguments.cores)]
    with TestCluster(arguments.nodes) as cluster, own_server(flags_of(cluster, arguments, *flags)) as server:
        calm = interruption.run(lambda: ask(server, prompts, arguments.streams))

        async def disturbed() -> tuple[list[Answer], FleetCore, float, FleetCore]:
            asking = asyncio.create_task(ask(server, prompts, arguments.streams))
            await asyncio.sleep(arguments.kill_after)
            victim = fleet_of(server).cores[-1]
            cluster.kill_node(victim)
            took_s = await until(lambda: is_back(server, victim), COME_BACK_S)
            answers = await asking
            return answers, victim, took_s, next(core for core in fleet_of(server).cores if core.name == victim.name)

        answers, victim, took_s, back = interruption.run(disturbed)
        is_only = arguments.cores == 1  # its successor has the same name
        moved = [
            answer for answer in answers if len(answer.cores) > 1 or (is_only and answer.longest_gap_s > LOST_GAP_S)
        ]
        print(
            f"node: {len(answers)} streams of {arguments.stream_tokens} tokens on {arguments.cores} cores; the node of "
            f"core {victim.name} ({victim.node_id[:8]}) killed after {arguments.kill_after} s; {len(moved)} streams "
            f"lost it and went on, with a pause of {max((a.longest_gap_s for a in moved), default=0):.2f} s at most; "
            f"core {back.name} is back on {back.node_id[:8]} after {took_s:.1f} s"
        )
        again = interruption.run(lambda: ask(server, prompts, arguments.streams))
        used = {core for answer in again for core in answer.cores}
        return [
            *judge("node", answers, calm),
            Figure("node: streams that lost their core", len(moved), 1, is_minimum=True),
            Figure("node: seconds until the core is back on another node", took_s, COME_BACK_S, "s"),
            *judge("node, afterwards", again, calm),
            Figure("node, afterwards: cores that answer", len(used), arguments.cores, is_minimum=True),
        ]


def is_back(server: OwnServer, victim: FleetCore) -> bool:
    """True once a core of this name serves on another node."""
    fleet = fleet_of(server)
    found = [core for core in fleet.cores if core.name == victim.name and core.node_id != victim.node_id]
    return bool(found) and found[0].state == "ready" and fleet.num_listed == fleet.num_wanted


def check_scale(arguments: argparse.Namespace, interruption: Interruption) -> list[Figure]:
    """More cores under load, and fewer after it."""
    flags = ["--cores", "1:3", "--max-num-seqs", "4", "--scale-up-queued-tokens", "60", "--scale-down-idle", "4"]
    load = Load(arguments.scale_requests, 20, arguments.scale_tokens, concurrency=24)
    prompts = RandomPrompts(2).prompts(load, load.num_prompts)
    light = RandomPrompts(3).prompts(Load(400, 20, 16, concurrency=1), 400)
    with TestCluster(NUM_NODES) as cluster, own_server(flags_of(cluster, arguments, *flags)) as server:
        seen: list[int] = []

        async def watch() -> None:
            while True:
                number = fleet_of(server).num_listed
                if not seen or seen[-1] != number:
                    seen.append(number)
                    print(f"scale: {number} cores")
                await asyncio.sleep(0.05)

        async def loaded() -> tuple[list[Answer], list[Answer]]:
            watching = asyncio.create_task(watch())
            answers = await ask(server, prompts, 24)
            trickle: list[Answer] = []
            for prompt in light:  # one after the other, while cores go
                trickle += await ask(server, [prompt], 1)
                if 3 in seen and seen[-1] == 1:
                    break
            watching.cancel()
            return answers, trickle

        answers, trickle = interruption.run(loaded)
        sample = range(0, len(prompts), SAMPLE_EVERY)  # one core takes its time
        calm = interruption.run(lambda: ask(server, [prompts[number] for number in sample], 4))
        counts = Counter(core for answer in answers for core in answer.cores)
        print(
            f"scale: {' → '.join(map(str, seen))} cores; {len(answers)} requests in the load, {len(trickle)} after it; "
            f"{', '.join(f'core {name}: {count}' for name, count in sorted(counts.items()))}"
        )
        return [
            Figure("scale: failed requests, of all", sum(bool(answer.failure) for answer in [*answers, *trickle]), 0),
            *judge("scale, sample", [answers[number] for number in sample], calm),
            Figure("scale: most cores", max(seen), 3, is_minimum=True),
            Figure("scale: cores in the end", seen[-1], 1),
        ]


def check_head(arguments: argparse.Namespace, interruption: Interruption) -> list[Figure]:
    """The Ray head is away for a while."""
    prompts = stream_prompts(arguments, 4)
    with TestCluster(NUM_NODES) as cluster, own_server(flags_of(cluster, arguments, "--cores", "2")) as server:
        calm = interruption.run(lambda: ask(server, prompts, arguments.streams))

        async def without_head() -> tuple[list[Answer], list[Answer], float]:
            asking = asyncio.create_task(ask(server, prompts, arguments.streams))
            await asyncio.sleep(arguments.kill_after)
            cluster.stop_head()
            began = time.monotonic()
            under = await asking
            later: list[Answer] = []
            while time.monotonic() - began < arguments.head_away:
                later += await ask(server, prompts[:4], 4)
            cluster.start_head()
            return under, later, time.monotonic() - began

        under, later, away_s = interruption.run(without_head)

        async def lose_a_node() -> tuple[list[Answer], FleetCore, float]:
            asking = asyncio.create_task(ask(server, prompts, arguments.streams))
            await asyncio.sleep(arguments.kill_after)
            victim = fleet_of(server).cores[-1]
            cluster.kill_node(victim)
            took_s = await until(lambda: is_back(server, victim), COME_BACK_S)
            return await asking, victim, took_s

        answers, victim, took_s = interruption.run(lose_a_node)
        print(
            f"head: away for {away_s:.1f} s: {len(under)} streams went through its end, {len(later)} requests came "
            f"after it; then the node of core {victim.name} was killed: back after {took_s:.1f} s"
        )
        return [
            *judge("head", under, calm),
            *judge("head, while away", later, (calm[:4] * len(later))[: len(later)]),
            *judge("head, afterwards", answers, calm),
            Figure("head, afterwards: seconds until a lost core is back", took_s, COME_BACK_S, "s"),
        ]


def check_lost(arguments: argparse.Namespace, interruption: Interruption) -> list[Figure]:
    """The directory's actor and the agent are killed."""
    prompts = stream_prompts(arguments, 6)
    with TestCluster(NUM_NODES) as cluster, own_server(flags_of(cluster, arguments, "--cores", "2")) as server:
        calm = interruption.run(lambda: ask(server, prompts, arguments.streams))

        async def disturbed() -> tuple[list[Answer], int, float]:
            before = {core.pid for core in fleet_of(server).cores}
            asking = asyncio.create_task(ask(server, prompts, arguments.streams))
            await asyncio.sleep(arguments.kill_after)
            agents = children_of(server.launcher_pid, "ray_executor.agent")
            victims = [*cluster.actors("DirectoryActor"), *agents]
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            answers = await asking
            server.run_dir.fleet_file.unlink()
            took_s = await until(lambda: {core.pid for core in fleet_of(server).cores} == before, COME_BACK_S)
            return answers, len(victims), took_s

        answers, num_killed, took_s = interruption.run(disturbed)
        again = interruption.run(lambda: ask(server, prompts, arguments.streams))
        num_moved = sum(len(answer.cores) > 1 for answer in answers)
        print(
            f"lost: directory and agent killed; {num_moved} streams moved; both back {took_s:.1f} s after the streams"
        )
        return [
            *judge("lost", answers, calm),
            *judge("lost, afterwards", again, calm),
            Figure("lost: processes killed", num_killed, 2, is_minimum=True),
            Figure("lost: streams that had to move", num_moved, 0),
            Figure("lost: seconds until both are back with the same cores", took_s, COME_BACK_S, "s"),
        ]


def check_join(arguments: argparse.Namespace, interruption: Interruption) -> list[Figure]:
    """Two servers share cores."""
    prompts = stream_prompts(arguments, 5)
    with TestCluster(NUM_NODES) as cluster, contextlib.ExitStack() as second_exit:
        flags = flags_of(cluster, arguments, "--cores", "2")
        with own_server(flags) as first:
            calm = interruption.run(lambda: ask(first, prompts, arguments.streams))
            second = second_exit.enter_context(own_server(flags))
            pids, theirs = (sorted(core.pid or 0 for core in fleet_of(of).cores) for of in (first, second))
        answers = interruption.run(lambda: ask(second, prompts, arguments.streams))
        num_alive = sum(map(is_running, pids))
        second_exit.close()
        gone_s = interruption.run(lambda: until(lambda: not any(map(is_running, pids)), COME_BACK_S))
    print(
        f"join: {num_alive} of {len(pids)} cores ran on without the first server; gone {gone_s:.1f} s after the second"
    )
    return [
        *judge("join", answers, calm),
        Figure("join: cores of the second server that are those of the first", len({*pids} & {*theirs}), 2, "", True),
        Figure("join: cores without the first server", num_alive, 2, is_minimum=True),
        Figure("join: seconds until they are gone after the last server", gone_s, 1, "s"),
    ]


def check_crash(arguments: argparse.Namespace, interruption: Interruption) -> list[Figure]:
    """The launcher is killed."""
    with TestCluster(NUM_NODES) as cluster, own_server(flags_of(cluster, arguments, "--cores", "2")) as server:
        pids = [core.pid for core in fleet_of(server).cores if core.pid is not None]
        os.kill(server.launcher_pid, signal.SIGKILL)
        gone_s = interruption.run(lambda: until(lambda: not any(map(is_running, pids)), COME_BACK_S))
        print(f"crash: launcher killed; its {len(pids)} cores ended after {gone_s:.1f} s")
        return [Figure("crash: seconds until the cores are gone", gone_s, 45, "s")]


CHECKS = {
    "node": check_node,
    "scale": check_scale,
    "head": check_head,
    "lost": check_lost,
    "join": check_join,
    "crash": check_crash,
}


def main() -> None:
    """Run the parts and judge."""
    parser = argparse.ArgumentParser(description="cores of a Ray cluster: lost nodes, autoscaling, a head that is away")
    parser.add_argument("parts", nargs="*", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}; all without")
    parser.add_argument("--nodes", type=int, default=NUM_NODES, help="of the part node")
    parser.add_argument("--cores", type=int, default=2, help="of the part node, fewer than nodes")
    parser.add_argument("--streams", type=int, default=40, help="that run when a node is killed")
    parser.add_argument("--stream-tokens", type=int, default=200)
    parser.add_argument("--kill-after", type=float, default=1.0, help="seconds")
    parser.add_argument("--head-away", type=float, default=15.0, help="seconds")
    parser.add_argument("--scale-requests", type=int, default=400, help="under which cores are added")
    parser.add_argument("--scale-tokens", type=int, default=60, help="of each answer then")
    parser.add_argument("--step-ms", type=float, default=20, help="of the fake model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    with errors_as_exits(), Interruption() as interruption:
        for part in arguments.parts or PARTS:
            figures += CHECKS[part](arguments, interruption)
    if not figures:
        raise ConfigError("nothing was measured")
    print(*figures, sep="\n")
    if arguments.json is not None:
        values = [{**asdict(figure), "is_met": figure.is_met} for figure in figures]
        arguments.json.write_text(json.dumps(values, indent=2) + "\n")
    sys.exit(verdict_on(figures))


if __name__ == "__main__":
    main()
