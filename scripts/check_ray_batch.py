#!/usr/bin/env python3
"""A batch job on a Ray cluster of several nodes, one of which is killed in the middle, and what comes of it.

    scripts/check_ray_batch.py                                  # 20,000 lines, 3 nodes, the fake model
    scripts/check_ray_batch.py --lines 600 --lines-per-part 30 --nodes 2 --interrupt
    scripts/check_ray_batch.py --lines 300 --lines-per-part 20 -- --model smollm2-135m-instruct --dtype float32

The cluster is `ray.cluster_utils.Cluster` on this machine: a head without CPUs, and nodes for one engine core each. The
input is a folder with JSONL, gzip and Parquet, among it lines that are no requests, and custom_ids that come twice, in
two files. When a part of the lines is done, a node is killed as by `kill -9`; it does not come back. With `--interrupt`
the job gets SIGINT before that, and the same command goes on. What an undisturbed `run-batch` without Ray makes of the
same lines is what must come out. Exit status 1 if a line is missing, there twice, or another one.
"""

import argparse
import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.bench.goals import Figure, verdict_on
from fast_inference.bench.interruption import Interruption, errors_as_exits
from fast_inference.child import child_environment
from fast_inference.cli_bench import split_at_dashes
from ipc.errors import ConfigError

_TIMEOUT_S = 600.0
_STORE_BYTES = 80 * 2**20
_WRONG_SHARE = 100
"""One of so many lines is wrong, and one of so many has the custom_id of another one."""


class Trial:
    """The input, and the jobs that answer it."""

    def __init__(self, arguments: argparse.Namespace, model_flags: Sequence[str], folder: Path) -> None:
        self._arguments, self._model_flags, self._folder = arguments, model_flags, folder
        self.input, self.output, self._log = folder / "in", folder / "out", folder / "log"
        self.num_tries = 0
        """Parts that were begun when the node was killed, or the job interrupted."""

    def write_input(self) -> None:
        """Three files, and one with all of their lines."""
        import pyarrow
        import pyarrow.parquet

        lines = [_line(number) for number in range(self._arguments.lines)]
        third = len(lines) // 3
        self.input.mkdir()
        raw = [json.dumps(line).encode() + b"\n" for line in lines]
        for index in range(0, 2 * third, _WRONG_SHARE):
            raw[index] = b"no JSON\n"
            lines[third + index // 2]["custom_id"] = lines[1]["custom_id"]
            raw[third + index // 2] = json.dumps(lines[third + index // 2]).encode() + b"\n"
        (self.input / "a.jsonl").write_bytes(b"".join(raw[:third]))
        (self.input / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(raw[third : 2 * third])))
        rows = [{**line, "body": json.dumps(line["body"])} for line in lines[2 * third :]]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), self.input / "c.parquet", row_group_size=1000)
        (self._folder / "all.jsonl").write_bytes(b"".join(raw))

    def undisturbed(self) -> list[Path]:
        """The output and the errors of a job without Ray."""
        output = self._folder / "whole.jsonl"
        process = self._start("-i", str(self._folder / "all.jsonl"), "-o", str(output))
        self._wait(process)
        return [output, output.with_name("whole.errors.jsonl")]

    def start(self, address: str) -> "subprocess.Popen[bytes]":
        """The job on Ray."""
        flags = ["--executor", "ray", "--ray-address", address, "--lines-per-part", str(self._arguments.lines_per_part)]
        return self._start("-i", str(self.input), "-o", str(self.output), *flags)

    def wait_until_done(self, share: float, process: "subprocess.Popen[bytes]") -> None:
        """Wait until so many of the parts are done."""
        num_parts = -(-self._arguments.lines // self._arguments.lines_per_part)
        while len(list(self.output.glob("_job/part-*/counts.json"))) < share * num_parts:
            if process.poll() is not None:
                raise ConfigError(f"run-batch ended too early, with status {process.returncode}: {self.last_lines()}")
            time.sleep(0.02)

    def note_tries(self) -> None:
        """Count what is under way."""
        self.num_tries += len(list(self.output.glob("_job/*.try-*")))

    def finish(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait for the end of the job."""
        self._wait(process)

    def last_lines(self) -> str:
        """What the job has said in the end."""
        return " / ".join(self._log.read_text(errors="replace").strip().splitlines()[-3:])

    def _start(self, *flags: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-P", "-m", "fast_inference", "run-batch", *flags, *self._model_flags]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, env=child_environment(), stdout=log, stderr=log)

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        try:
            status = process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise ConfigError(f"run-batch hangs: {self.last_lines()}") from error
        if status:
            raise ConfigError(f"run-batch ended with status {status}: {self.last_lines()}")


def run(arguments: argparse.Namespace, trial: Trial) -> list[Figure]:
    """Both jobs, and what they came to."""
    trial.write_input()
    began_at = time.monotonic()
    expected = _results(trial.undisturbed())
    print(f"undisturbed, without Ray: {expected.total()} lines in {time.monotonic() - began_at:.1f} s", flush=True)
    cluster, nodes = _cluster(arguments.nodes)
    try:
        began_at = time.monotonic()
        job = trial.start(cluster.address)
        if arguments.interrupt:
            trial.wait_until_done(arguments.kill_at / 2, job)
            job.send_signal(signal.SIGINT)
            print(f"interrupted: status {job.wait(60)}, {trial.last_lines()}", flush=True)
            job = trial.start(cluster.address)
        trial.wait_until_done(arguments.kill_at, job)
        trial.note_tries()
        cluster.remove_node(nodes[0], allow_graceful=False)
        killed_at = time.monotonic()
        print(
            f"a node is killed after {killed_at - began_at:.1f} s, {trial.num_tries} parts were under way", flush=True
        )
        trial.finish(job)
        print(f"complete {time.monotonic() - killed_at:.1f} s later: {trial.last_lines()}", flush=True)
    finally:
        cluster.shutdown()
    found = _results([*trial.output.glob("part-*.jsonl"), *trial.output.glob("errors/*.jsonl")])
    again = sum((found - expected).values())
    return [
        Figure("nodes that were killed", 1, 1, is_minimum=True),
        Figure("lines of the input", expected.total(), arguments.lines, is_minimum=True),
        Figure("parts under way when the node was killed", trial.num_tries, 1, is_minimum=True),
        Figure("lines that are missing, or have another answer", sum((expected - found).values()), 0),
        Figure("lines that are there twice, or have another answer", again, 0),
    ]


def _cluster(num_nodes: int) -> tuple[Any, list[Any]]:
    """A head, and nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, wait=False, object_store_memory=_STORE_BYTES) for _ in range(num_nodes)]
    cluster.wait_for_nodes()
    return cluster, nodes


def _line(number: int) -> dict[str, Any]:
    text = f"Question {number % 97} of a batch, number {number}: what comes after {number * 7}?"
    sampling = {"temperature": 0.0} if number % 2 else {"temperature": 0.8, "seed": number}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 8, **sampling}),
        ("/v1/completions", {"prompt": text, "max_tokens": 12, "ignore_eos": True, **sampling}),
        ("/v1/completions", {"prompt": text, "max_tokens": 0 if number % 50 == 2 else 5, **sampling}),
    ]
    url, body = bodies[number % len(bodies)]
    body["model"] = "fast-inference-model"
    return {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": body}


def _results(paths: Sequence[Path]) -> "Counter[str]":
    """What counts of each line of some files."""
    return Counter(_comparable(json.loads(raw)) for path in paths for raw in path.read_text().splitlines())


def _comparable(line: dict[str, Any]) -> str:
    """Without ids, times, what the prefix cache had, and the number of a line in its file."""
    response, error = line["response"], line["error"]
    if error is not None:
        return json.dumps([line["custom_id"], error["code"], error["message"]])
    body = response["body"]
    content = [choice.get("message", choice.get("text")) for choice in body.get("choices", [])] or body
    usage = body.get("usage", {}).get("completion_tokens")
    return json.dumps([line["custom_id"], response["status_code"], content, usage])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="a batch job on Ray, one of whose nodes is killed")
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--lines-per-part", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=3, help="with a core each, beside the head")
    parser.add_argument("--kill-at", type=float, default=0.3, help="share of the parts that is done before")
    parser.add_argument("--interrupt", action="store_true", help="also stop the job with SIGINT before that, and go on")
    own_flags, model_flags = split_at_dashes(sys.argv[1:])
    arguments = parser.parse_args(own_flags)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # of this cluster only
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    model_flags = model_flags or ["--model", "fake", "--fake-step-ms", "5", "--max-num-seqs", "32"]
    with errors_as_exits(), Interruption(), tempfile.TemporaryDirectory(prefix="ray-batch-") as folder:
        figures = run(arguments, Trial(arguments, model_flags, Path(folder)))
    for figure in figures:
        print(f"  {figure}")
    sys.exit(verdict_on(figures))


if __name__ == "__main__":
    main()
