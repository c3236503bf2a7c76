#!/usr/bin/env python3
"""A batch job whose runner and whose engine core are killed at random moments, and what comes of it.

    scripts/kill_batch.py                                     # 2,000 lines, 10 kills, the fake model, some 3 minutes
    scripts/kill_batch.py --model smollm2-135m-instruct --lines 400 -- --dtype float32
    scripts/kill_batch.py --lines 200 --kills 4 --fake-step-ms 5 --seed 3

A server runs, and a job is attached to it: once undisturbed, then again with `kill -9` for the runner, which is started
anew with the same command, and for the core, which the launcher replaces. The seed decides who is killed when. Exit
status 1 if an answer is missing, there twice or another one, a line is torn, or too many tokens were computed again.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.bench.goals import Figure, verdict_on
from fast_inference.bench.interruption import Interruption, errors_as_exits
from fast_inference.bench.own_server import OwnServer, own_server
from fast_inference.child import child_environment
from fast_inference.cli_bench import split_at_dashes
from fast_inference.restart_policy import CRASH_WINDOW_S, MAX_CORE_CRASHES
from ipc.errors import ConfigError
from ipc.messages import CallMethod
from ipc.sync_client import SyncEngineClient

REDONE_SHARE = 0.02
_CORE_SPACING_S = CRASH_WINDOW_S / (MAX_CORE_CRASHES - 1) + 1
"""Between two kills of many, or the launcher gives up."""
_READY_TIMEOUT_S = 60.0


def mixed_lines(count: int, model: str, max_tokens: int) -> list[dict[str, Any]]:
    """Chats, completions, embeddings and responses; greedy ones, and seeded ones with a stop string."""
    lines = []
    for number in range(count):
        text = f"Question {number % 97} of a batch, number {number}: what comes after {number * 7}?"
        sampling = {"temperature": 0.0} if number % 2 else {"temperature": 0.8, "seed": number}
        bodies: list[tuple[str, dict[str, Any]]] = [
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}),
            ("/v1/completions", {"prompt": text, "max_tokens": max_tokens, "ignore_eos": True, "stop": ["zzzz"]}),
            ("/v1/completions", {"prompt": text, "max_tokens": max_tokens, "ignore_eos": True}),
            ("/v1/responses", {"input": text, "max_output_tokens": max(16, max_tokens)}),
            ("/v1/embeddings", {"input": text}),
        ]
        url, body = bodies[number % len(bodies)]
        if url.startswith("/v1/responses"):
            sampling = {"temperature": 0.0}  # has no seed
        body = {"model": model, **body, **({} if url == "/v1/embeddings" else sampling)}
        lines.append({"custom_id": f"line-{number}", "method": "POST", "url": url, "body": body})
    return lines


class Trial:
    """One server, and jobs that are attached to it."""

    def __init__(self, arguments: argparse.Namespace, server: OwnServer, folder: Path) -> None:
        self._arguments, self._server, self._folder = arguments, server, folder
        self._random = random.Random(arguments.seed)
        self._core_killed_at = float("-inf")
        self.kills: Counter[str] = Counter()
        self.num_torn_lines = 0

    def undisturbed(self) -> tuple[dict[str, Any], int, float]:
        """The answers, the tokens that were sampled for them, and the seconds that it took."""
        before, began_at = self._sampled_tokens(), time.monotonic()
        runner = self._start("whole.jsonl")
        self._wait(runner)
        seconds = time.monotonic() - began_at
        return self._answers("whole.jsonl"), self._sampled_tokens() - before, seconds

    def disturbed(self, seconds: float) -> tuple[dict[str, Any], int]:
        """The answers of a job that is expected to take so long, and the tokens that were sampled for them."""
        num_cores = self._arguments.kills // 2
        victims = ["core"] * num_cores + ["runner"] * (self._arguments.kills - num_cores)
        self._random.shuffle(victims)
        gap_s = seconds / (len(victims) + 1)
        num_sampled, base = 0, self._sampled_tokens()
        runner = self._start("out.jsonl")
        for victim in victims:
            time.sleep(self._random.uniform(0.5, 1.5) * gap_s)
            if victim == "core":
                time.sleep(max(0.0, self._core_killed_at + self._core_spacing_s(num_cores) - time.monotonic()))
            if runner.poll() is not None:
                break
            if victim == "core":
                num_sampled += self._sampled_tokens() - base
                self._kill_core()
                base = 0
            else:
                runner.kill()
                runner.wait()
                self._look_for_torn_lines()
                runner = self._start("out.jsonl")
            self.kills[victim] += 1
        self._wait(runner)
        return self._answers("out.jsonl"), num_sampled + self._sampled_tokens() - base

    def _core_spacing_s(self, num_cores: int) -> float:
        return _CORE_SPACING_S if num_cores >= MAX_CORE_CRASHES - 1 else 0.0

    def _start(self, output: str) -> "subprocess.Popen[bytes]":
        command = [
            sys.executable,
            "-P",
            "-m",
            "fast_inference",
            "run-batch",
            "--attach",
            str(self._server.run_dir.path),
        ]
        command += ["-i", str(self._folder / "in.jsonl"), "-o", str(self._folder / output)]
        command += ["--max-in-flight", str(self._arguments.max_in_flight)]
        log = (self._folder / "log").open("ab")
        with log:
            return subprocess.Popen(command, env=child_environment(), stdout=log, stderr=log)

    def _wait(self, runner: "subprocess.Popen[bytes]") -> None:
        if status := runner.wait():
            log = (self._folder / "log").read_text().strip().splitlines()
            raise ConfigError(f"run-batch ended with status {status}: {' / '.join(log[-3:])}")

    def _kill_core(self) -> None:
        """Wait for one that is ready, and kill it."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while (pid := self._server.core_pid) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if pid is None:
            raise ConfigError("the server has no core any more")
        os.kill(pid, signal.SIGKILL)
        self._core_killed_at = time.monotonic()

    def _sampled_tokens(self) -> int:
        """Of the core that runs, since its start; waits for it."""
        with SyncEngineClient(self._server.run_dir.core_socket, name="kill_batch") as client:
            client.wait_ready(_READY_TIMEOUT_S)
            return int(client.call(CallMethod.STATS)["num_sampled_tokens"])

    def _look_for_torn_lines(self) -> None:
        """All but what is behind the last end of a line must be JSON."""
        for raw in (self._folder / "out.jsonl").read_bytes().split(b"\n")[:-1]:
            try:
                json.loads(raw)
            except ValueError:
                self.num_torn_lines += 1

    def _answers(self, output: str) -> dict[str, Any]:
        """What counts of each answer, by custom_id; raises `ConfigError` where one is there twice."""
        answers: dict[str, Any] = {}
        for raw in (self._folder / output).read_text().splitlines():
            line = json.loads(raw)
            if line["custom_id"] in answers:
                raise ConfigError(f"{line['custom_id']} is there twice")
            answers[line["custom_id"]] = _comparable(line["response"]["body"])
        return answers


def _comparable(body: dict[str, Any]) -> Any:
    """Without ids, times and what the prefix cache had."""
    usage = body["usage"]
    num_tokens = usage.get("completion_tokens", usage.get("output_tokens"))
    content = body.get("choices") or body.get("data") or [part["content"] for part in body["output"]]
    return _without_ids(content), num_tokens


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_ids(item) for name, item in value.items() if name != "id"}
    return [_without_ids(item) for item in value] if isinstance(value, list) else value


def run(arguments: argparse.Namespace, server: OwnServer, folder: Path) -> list[Figure]:
    """Both jobs, and what they came to."""
    lines = mixed_lines(arguments.lines, arguments.model, arguments.max_tokens)
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trial = Trial(arguments, server, folder)
    expected, num_needed, seconds = trial.undisturbed()
    print(f"undisturbed: {len(expected)} answers in {seconds:.1f} s, {num_needed} tokens")
    found, num_sampled = trial.disturbed(seconds)
    kills = ", ".join(f"{count} of the {name}" for name, count in sorted(trial.kills.items()))
    print(f"disturbed: {trial.kills.total()} kills ({kills}), {num_sampled} tokens")
    ids = {line["custom_id"] for line in lines}
    differ = sum(found.get(custom_id) != answer for custom_id, answer in expected.items())
    return [
        Figure("kills", trial.kills.total(), arguments.kills, is_minimum=True),
        Figure("lines without an answer, undisturbed", len(ids - expected.keys()), 0),
        Figure("lines without an answer", len(ids - found.keys()), 0),
        Figure("answers that differ from those of the undisturbed job", differ, 0),
        Figure("torn lines before the last one", trial.num_torn_lines, 0),
        Figure("tokens computed again", 100 * (num_sampled / num_needed - 1), 100 * REDONE_SHARE, "%"),
    ]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="a batch job whose processes are killed")
    parser.add_argument("--model", default="fake", help="as `serve` takes it")
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10, help="half of them of the core")
    parser.add_argument("--max-tokens", type=int, default=100, help="of an answer")
    parser.add_argument("--max-in-flight", type=int, default=64, help="of the job")
    parser.add_argument("--fake-step-ms", type=float, default=40.0, help="of the fake model")
    parser.add_argument("--seed", type=int, default=7)
    own_flags, server_flags = split_at_dashes(sys.argv[1:])
    arguments = parser.parse_args(own_flags)
    flags = ["--frontends", "1", "--log-level", "critical"]
    if arguments.model == "fake":
        flags += ["--fake-step-ms", str(arguments.fake_step_ms)]
    with (
        errors_as_exits(),
        Interruption(),
        tempfile.TemporaryDirectory(prefix="kill-batch-") as folder,
        own_server([arguments.model, *flags, *server_flags]) as server,
    ):
        figures = run(arguments, server, Path(folder))
    for figure in figures:
        print(f"  {figure}")
    sys.exit(verdict_on(figures))


if __name__ == "__main__":
    main()
