#!/usr/bin/env python3
"""How flows and classes share one core: what a small flow, or online requests, feel of a large flow or a batch job.

    scripts/serve --run-dir /tmp/fair --max-num-seqs 8
    scripts/bench_fairness.py --run-dir /tmp/fair flows
    scripts/bench_fairness.py --run-dir /tmp/fair batch --online 16 --seconds 60
    scripts/bench_fairness.py --run-dir /tmp/fair batch --rate 2 --seconds 60

`flows`: four requests of one flow, (a) alone, (b) beside four of another flow, which is an equal share, (c) beside
sixty of another flow that came first. `batch`: as many online requests as asked for are kept in flight (or come at
random at `--rate`), (a) alone, (b) beside a batch job that always has more. It talks to the core directly; nothing else
should run on the machine.
"""

import argparse
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ipc.endpoints import RunDir
from ipc.messages import CallMethod, ClientRole
from ipc.sampling_params import SamplingParams
from ipc.session import RequestOutputs
from ipc.sync_client import SyncEngineClient

_WAIT_S = 0.002


@dataclass
class Sample:
    """One request under way, or ended."""

    outputs: RequestOutputs
    sent_at: float
    first_at: float | None = None
    num_tokens: int = 0
    is_done: bool = False

    @property
    def ttft_ms(self) -> float:
        """Time to the first token, or so far where there is none yet."""
        return ((self.first_at or time.perf_counter()) - self.sent_at) * 1e3


@dataclass
class Load:
    """Requests of one kind from one client."""

    client: SyncEngineClient
    num_prompt_tokens: int
    num_output_tokens: int
    flow: str = ""
    samples: list[Sample] = field(default_factory=list)
    in_flight: list[Sample] = field(default_factory=list)
    num_tokens: int = 0
    next_at: float | None = None

    def send(self) -> Sample:
        """Submit one request with a random prompt, which no prefix cache knows, and an answer of about that length.

        Answers of one length would all end in the same step, so that all seats become free at once.
        """
        prompt = [random.randrange(1000, 40_000) for _ in range(self.num_prompt_tokens)]
        max_tokens = random.randint(self.num_output_tokens // 2, self.num_output_tokens * 3 // 2)
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, seed=random.getrandbits(32))
        sample = Sample(self.client.submit(prompt, params, flow=self.flow), time.perf_counter())
        self.samples.append(sample)
        self.in_flight.append(sample)
        return sample

    def keep_in_flight(self, count: int) -> None:
        """Submit as many as are missing."""
        for _ in range(count - len(self.in_flight)):
            self.send()

    def send_at_random(self, rate_per_s: float) -> None:
        """Submit one where its time has come; the times between are exponentially distributed."""
        now = time.perf_counter()
        self.next_at = self.next_at or now
        while self.next_at <= now:
            self.send()
            self.next_at += random.expovariate(rate_per_s)

    def take_in(self) -> None:
        """Read what has arrived, and note when."""
        self.client.wait(_WAIT_S)
        now = time.perf_counter()
        for sample in self.in_flight:
            while (output := sample.outputs.try_take()) is not None:
                sample.first_at = sample.first_at or now
                sample.num_tokens += len(output.token_ids)
                self.num_tokens += len(output.token_ids)
                if output.finished is not None:
                    sample.is_done = True
                    break
        self.in_flight = [sample for sample in self.in_flight if not sample.is_done]

    def abort_all(self) -> None:
        """Abort what is under way."""
        for sample in self.in_flight:
            self.client.abort(sample.outputs.request_id)
        self.in_flight.clear()

    def wait_until_idle(self) -> None:
        """Wait until the core has nothing to do."""
        while self.client.call(CallMethod.STATS)["num_running"]:
            time.sleep(0.05)


def run_until(loads: list[Load], is_over: Callable[[], bool]) -> None:
    """Read all clients until then."""
    while not is_over():
        for load in loads:
            load.take_in()


def percentile(values: list[float], percent: float) -> float:
    """Nearest rank."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def flows(connect: Callable[[ClientRole], SyncEngineClient], arguments: argparse.Namespace) -> None:
    """Times to the first token of a small flow."""
    medians = {}
    for label, num_others in (("alone", 0), ("beside 4", 4), ("beside 60", 60)):
        times: list[float] = []
        for repeat in range(arguments.repeats):
            large = Load(connect(ClientRole.FRONTEND), arguments.prompt, arguments.output, flow=f"large {repeat}")
            small = Load(large.client, arguments.prompt, arguments.output, flow=f"small {repeat}")
            for _ in range(num_others):
                large.send()
            first = large.samples[:1]
            run_until([large], lambda first=first: all(sample.first_at for sample in first))
            for _ in range(4):
                small.send()
            run_until([large, small], lambda small=small: all(sample.is_done for sample in small.samples))
            times += [sample.ttft_ms for sample in small.samples]
            large.abort_all()
            large.wait_until_idle()
        medians[label] = percentile(times, 95)
        print(f"{label:>10}: TTFT p50 {statistics.median(times):7.0f} ms, p95 {medians[label]:7.0f} ms")
    print(f"beside 60 / beside an equal share: {medians['beside 60'] / medians['beside 4']:.2f}x at p95")


def batch(connect: Callable[[ClientRole], SyncEngineClient], arguments: argparse.Namespace) -> None:
    """Times to the first token of online requests, and the share of the tokens that a batch job gets."""
    p99 = {}
    for label, has_batch in (("alone", False), ("with batch", True)):
        online = Load(connect(ClientRole.FRONTEND), arguments.prompt, arguments.output)
        job = Load(connect(ClientRole.BATCH), arguments.prompt, arguments.output, flow="batch:1")
        loads = [online, job] if has_batch else [online]
        started_at = time.perf_counter()
        warm_up_s = arguments.seconds / 5
        for turn in itertools.count():
            elapsed_s = time.perf_counter() - started_at
            if elapsed_s > arguments.seconds:
                break
            if turn and elapsed_s < warm_up_s:
                online.num_tokens = job.num_tokens = 0
            if arguments.rate:
                online.send_at_random(arguments.rate)
            else:
                online.keep_in_flight(arguments.online)
            if has_batch:
                job.keep_in_flight(2 * job.client.wait_ready(1).max_num_seqs)
            for load in loads:
                load.take_in()
        measured = [sample for sample in online.samples if sample.sent_at - started_at > warm_up_s]
        times = [sample.ttft_ms for sample in measured]
        p99[label] = percentile(times, 99)
        total = online.num_tokens + job.num_tokens
        rate, share = total / (arguments.seconds - warm_up_s), job.num_tokens / total
        print(f"{label:>10}: {len(times)} requests, TTFT p50 {statistics.median(times):7.0f} ms,", end=" ")
        print(f"p99 {p99[label]:7.0f} ms, {rate:.0f} tokens/s, {share:.1%} of them for the batch")
        for load in loads:
            load.abort_all()
        online.wait_until_idle()
    print(f"with batch / alone: {p99['with batch'] / p99['alone']:.2f}x at p99")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="how flows and classes share one core")
    parser.add_argument("what", choices=("flows", "batch"))
    parser.add_argument("--run-dir", type=Path, required=True, help="run dir of a running server")
    parser.add_argument("--prompt", type=int, default=50, help="tokens of each prompt")
    parser.add_argument("--output", type=int, default=32, help="tokens of an answer, in the mean")
    parser.add_argument("--repeats", type=int, default=5, help="of the flows")
    parser.add_argument("--online", type=int, default=16, help="online requests in flight beside the batch")
    parser.add_argument("--rate", type=float, help="online requests per second, instead of so many in flight")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each batch measurement")
    arguments = parser.parse_args()
    with ExitStack() as clients:

        def connect(role: ClientRole) -> SyncEngineClient:
            socket = RunDir(arguments.run_dir).core_socket
            client = clients.enter_context(SyncEngineClient(socket, name="bench", role=role))
            client.wait_ready(10)
            return client

        (flows if arguments.what == "flows" else batch)(connect, arguments)


if __name__ == "__main__":
    main()
