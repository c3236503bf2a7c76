#!/usr/bin/env python3
"""What a batch job comes to: beside online requests over HTTP, for them, and in memory.

    scripts/bench_batch.py throughput --concurrency 32 --rounds 3     # over the online closed loop, in turn
    scripts/bench_batch.py fairness --rate 2 --seconds 60             # TTFT of online requests with and without a job
    scripts/bench_batch.py memory --lines 1000000                     # the runner's memory and speed, fake model
    scripts/bench_batch.py peer --peer-model m --peer 'vllm run-batch -i {input} -o {output} --model DIR …'

`throughput` and `fairness` start a server (flags of `fast-inference serve` after `--`) and attach jobs to it. `memory`
checks an input, runs a job on it for some seconds, and resumes one of which all but a few lines are done. `peer` gives
the same chats to a whole command of ours and of somebody else, in turn, and compares what they take from start to end.
Exit status 1 if a goal is missed. Nothing else should run on the machine.
"""

import argparse
import json
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.bench.goals import Figure, verdict_on
from fast_inference.bench.interruption import Interruption, errors_as_exits
from fast_inference.bench.own_server import OwnServer, own_server
from fast_inference.bench.process_sizes import resident_bytes
from fast_inference.bench.workload import Load, RandomPrompts
from fast_inference.child import child_environment
from fast_inference.cli_bench import split_at_dashes
from frontend.batch.result_lines import LineResult, result_line
from ipc.errors import ConfigError

OVER_ONLINE = 1.15
TTFT_FACTOR = 1.5
OVER_PEER = 2.5
PEAK_SHARE = 0.95
RUNNER_MIB = 150.0
CHECKED_PER_S = 5000.0
_LEFT_LINES = 100
_SPEED = re.compile(r"output tokens in [0-9.]+ s: ([0-9.,]+) tokens/s")
_CHECKED = re.compile(r"\(([0-9,]+) lines/s\)")
_FILE_FLAGS = " -i {input} -o {output}"
_COMMAND = (sys.executable, "-P", "-m", "fast_inference")


def write_lines(path: Path, model: str, count: int, arguments: argparse.Namespace, seed: int) -> None:
    """Completions as `bench serve` asks for them."""
    load = Load(count, arguments.input_len, arguments.output_len, concurrency=1)
    with path.open("w") as file:
        for number, prompt in enumerate(RandomPrompts(seed).prompts(load, count, 0)):
            body = {"model": model, "prompt": prompt.content, "max_tokens": prompt.output_len, "ignore_eos": True}
            body |= {"temperature": 0.0}
            line = {"custom_id": f"{seed}-{number}", "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def online(server: OwnServer, arguments: argparse.Namespace, folder: Path, seed: int, *load: str) -> dict[str, float]:
    """The numbers of `bench serve` under a load."""
    output = folder / "online.json"
    command = [*_COMMAND, "bench", "serve", "--url", server.url, "--seed", str(seed), "--output", str(output), *load]
    command += ["--input-len", str(arguments.input_len), "--output-len", str(arguments.output_len)]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"bench serve failed: {done.stderr.strip()}")
    numbers: dict[str, float] = json.loads(output.read_text())["results"][0]["rounds"][0]
    return numbers


def job_command(folder: Path, name: str, *flags: str) -> list[str]:
    """Of a job with the files NAME.jsonl and NAME-out.jsonl."""
    return [
        *_COMMAND,
        "run-batch",
        "-i",
        str(folder / f"{name}.jsonl"),
        "-o",
        str(folder / f"{name}-out.jsonl"),
        *flags,
    ]


def batch_rate(server: OwnServer, arguments: argparse.Namespace, folder: Path, name: str, *flags: str) -> float:
    """Output tokens per second of a whole job."""
    command = job_command(folder, name, "--attach", str(server.run_dir.path), *flags)
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
    speed = _SPEED.search(done.stderr)
    if speed is None:
        raise ConfigError(f"run-batch failed: {done.stderr.strip()}")
    return float(speed[1].replace(",", ""))


def throughput(arguments: argparse.Namespace, server: OwnServer, folder: Path) -> list[Figure]:
    """Online and batch in turn, with the same lengths, and as many at once as the server has seats."""
    ratios = []
    for turn in range(arguments.rounds):
        concurrency = str(arguments.concurrency)
        load = ("--concurrency", concurrency, "--num-prompts", str(arguments.num_prompts))
        before = online(server, arguments, folder, 2 * turn, *load)["output_throughput"]
        write_lines(folder / f"{turn}.jsonl", arguments.model, arguments.num_prompts, arguments, 2 * turn + 1)
        batch = batch_rate(server, arguments, folder, str(turn))
        print(f"round {turn + 1}: online {before:.1f} tokens/s, batch {batch:.1f} tokens/s", flush=True)
        ratios.append(batch / before)
    return [Figure("batch over the online closed loop", statistics.median(ratios), OVER_ONLINE, "x", is_minimum=True)]


def fairness(arguments: argparse.Namespace, server: OwnServer, folder: Path) -> list[Figure]:
    """Online requests at random times alone and beside a job; a job alone beside the best that online can do."""
    num_prompts = str(max(1, round(arguments.rate * arguments.seconds)))
    load = ("--request-rate", str(arguments.rate), "--num-prompts", num_prompts)
    peak = online(
        server, arguments, folder, 0, "--concurrency", str(arguments.concurrency), "--num-prompts", num_prompts
    )
    alone = online(server, arguments, folder, 1, *load)
    write_lines(folder / "whole.jsonl", arguments.model, arguments.num_prompts, arguments, 3)
    batch = batch_rate(server, arguments, folder, "whole")
    write_lines(folder / "endless.jsonl", arguments.model, arguments.num_endless, arguments, 4)
    with job(folder, "endless", "--attach", str(server.run_dir.path)) as running:
        time.sleep(arguments.head_start)
        beside = online(server, arguments, folder, 2, *load)
        if running.poll() is not None:
            raise ConfigError("the job ended before the online requests: use more --num-endless")
    for name, numbers in (("alone", alone), ("beside a job", beside)):
        print(f"online {name}: TTFT p50 {numbers['median_ttft_ms']:.0f} ms, p99 {numbers['p99_ttft_ms']:.0f} ms")
    print(f"batch alone {batch:.1f} tokens/s, online at most {peak['output_throughput']:.1f} tokens/s")
    return [
        Figure("TTFT p99 beside a job over alone", beside["p99_ttft_ms"] / alone["p99_ttft_ms"], TTFT_FACTOR, "x"),
        Figure("batch alone over the peak", batch / peak["output_throughput"], PEAK_SHARE, "x", is_minimum=True),
    ]


@contextmanager
def job(folder: Path, name: str, *flags: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A job that is stopped in the end."""
    with (folder / "log").open("ab") as log:
        running = subprocess.Popen(job_command(folder, name, *flags), env=child_environment(), stdout=log, stderr=log)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGINT)
        running.wait()


def memory(arguments: argparse.Namespace, folder: Path) -> list[Figure]:
    """Of the runner, without the engine core, while it checks, answers and resumes."""
    with (folder / "many.jsonl").open("w") as file, (folder / "done.jsonl").open("w") as same:
        for number in range(arguments.lines):
            body: dict[str, Any] = {"model": "fake", "max_tokens": 1, "prompt": f"number {number} of {'many ' * 20}"}
            line = {"custom_id": f"request-{number:08d}", "method": "POST", "url": "/v1/completions", "body": body}
            text = json.dumps(line) + "\n"
            file.write(text)
            same.write(text)
    print(f"{arguments.lines} lines, {(folder / 'many.jsonl').stat().st_size / 2**20:.0f} MiB", flush=True)
    command = [*_COMMAND, "run-batch", "-i", str(folder / "many.jsonl"), "--check"]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
    checked = _CHECKED.search(done.stdout)
    if checked is None:
        raise ConfigError(f"run-batch --check failed: {done.stderr.strip()}")
    peak_running, num_answers = peak_mib(folder, "many", arguments.seconds)
    with (folder / "done-out.jsonl").open("wb") as output:
        for number in range(arguments.lines - _LEFT_LINES):
            output.write(result_line(LineResult(f"request-{number:08d}", "r", 200, {"text": "x" * 200})))
    began_at = time.monotonic()
    peak_resuming, num_resumed = peak_mib(folder, "done", None)
    seconds = time.monotonic() - began_at
    print(f"{num_answers} lines answered in {arguments.seconds:.0f} s; resumed to the end in {seconds:.0f} s")
    return [
        Figure("lines checked", float(checked[1].replace(",", "")), CHECKED_PER_S, "/s", is_minimum=True),
        Figure("memory of a runner that answers, at most", peak_running, RUNNER_MIB, "MiB"),
        Figure("memory of a runner that resumes, at most", peak_resuming, RUNNER_MIB, "MiB"),
        Figure("lines in the output that was resumed", num_resumed, arguments.lines, is_minimum=True),
    ]


def peer(arguments: argparse.Namespace, folder: Path) -> list[Figure]:
    """Whole commands, with the start of the engine, on the same chats."""
    ratios = []
    for turn in range(arguments.rounds):
        seconds = {}
        for name, model, template in (
            ("ours", arguments.model, shlex.join([*_COMMAND, "run-batch", "--model", arguments.model]) + _FILE_FLAGS),
            ("peer", arguments.peer_model, arguments.peer),
        ):
            source, output = folder / f"{name}-{turn}.jsonl", folder / f"{name}-{turn}-out.jsonl"
            write_chats(source, model, arguments, turn)
            command = [word.format(input=source, output=output) for word in shlex.split(template)]
            began_at = time.monotonic()
            done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
            seconds[name] = time.monotonic() - began_at
            if done.returncode or num_output_tokens(output) != arguments.num_prompts * arguments.output_len:
                raise ConfigError(f"{shlex.join(command)} has not answered all lines: {done.stderr[-2000:]}")
        print(f"round {turn + 1}: ours {seconds['ours']:.1f} s, peer {seconds['peer']:.1f} s", flush=True)
        ratios.append(seconds["peer"] / seconds["ours"])
    return [Figure("time of the peer over ours", statistics.median(ratios), OVER_PEER, "x", is_minimum=True)]


def write_chats(path: Path, model: str, arguments: argparse.Namespace, seed: int) -> None:
    """Chats of the same random words for every model name."""
    load = Load(arguments.num_prompts, arguments.input_len, arguments.output_len, concurrency=1)
    with path.open("w") as file:
        for number, prompt in enumerate(RandomPrompts(seed).prompts(load, arguments.num_prompts, 0)):
            body = {"model": model, "messages": [{"role": "user", "content": prompt.content}], "temperature": 0.0}
            body |= {"max_tokens": prompt.output_len, "ignore_eos": True}
            line = {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def num_output_tokens(path: Path) -> int:
    """In all answers of an output file."""
    with path.open() as file:
        return sum(json.loads(line)["response"]["body"]["usage"]["completion_tokens"] for line in file)


def peak_mib(folder: Path, name: str, seconds: float | None) -> tuple[float, int]:
    """The most memory of a job until it ends or for so long, and the lines that it has in the end."""
    peak, deadline = 0, time.monotonic() + (seconds or float("inf"))
    with job(folder, name, "--model", "fake", "--num-blocks", "4096") as running:
        while running.poll() is None and time.monotonic() < deadline:
            peak = max(peak, resident_bytes(running.pid) or 0)
            time.sleep(0.1)
    with (folder / f"{name}-out.jsonl").open("rb") as output:
        return peak / 2**20, sum(1 for _ in output)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="what a batch job comes to")
    parser.add_argument("what", choices=("throughput", "fairness", "memory", "peer"))
    parser.add_argument("--model", default="smollm2-135m-instruct", help="as `serve` takes it")
    parser.add_argument("--concurrency", type=int, default=64, help="requests at once, online and in the job")
    parser.add_argument("--num-prompts", type=int, default=256, help="of the online closed loop, and lines of the job")
    parser.add_argument("--input-len", type=int, default=100, help="words of each prompt")
    parser.add_argument("--output-len", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=3, help="of throughput, and of peer")
    parser.add_argument("--rate", type=float, default=2.0, help="online requests per second, of fairness")
    parser.add_argument("--seconds", type=float, default=60.0, help="of online requests, or of the job of memory")
    parser.add_argument("--num-endless", type=int, default=20_000, help="lines of the job beside online requests")
    parser.add_argument("--head-start", type=float, default=5.0, help="seconds of that job before them")
    parser.add_argument("--lines", type=int, default=1_000_000, help="of the input of memory")
    parser.add_argument("--peer", default="", metavar="COMMAND", help="with {input} and {output} for the files")
    parser.add_argument("--peer-model", default="m", help="name of the model in the requests of the peer")
    own_flags, server_flags = split_at_dashes(sys.argv[1:])
    arguments = parser.parse_args(own_flags)
    with (
        errors_as_exits(),
        Interruption(),
        tempfile.TemporaryDirectory(prefix="bench-batch-") as name,
    ):
        folder = Path(name)
        if arguments.what == "memory":
            figures = memory(arguments, folder)
        elif arguments.what == "peer":
            figures = peer(arguments, folder)
        else:
            seats = ["--max-num-seqs", str(arguments.concurrency)] if arguments.what == "throughput" else []
            with own_server([arguments.model, *seats, *server_flags]) as server:
                measure = throughput if arguments.what == "throughput" else fairness
                figures = measure(arguments, server, folder)
    for figure in figures:
        print(f"  {figure}")
    sys.exit(verdict_on(figures))


if __name__ == "__main__":
    main()
