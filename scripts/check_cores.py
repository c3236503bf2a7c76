#!/usr/bin/env python3
"""Several cores behind the same frontends: how requests are spread, where prefixes are found again, and `kill -9`.

    scripts/check_cores.py                                                   # fake model, a step takes 20 ms
    scripts/check_cores.py --model smollm2-135m-instruct -- --dtype float32  # flags of the server after --
    scripts/check_cores.py spread prefixes --requests 400

    spread    different prompts: what each core gets of them
    prefixes  groups of prompts with the same beginning, from as many clients as `--concurrency`: which core each of a
              group goes to, and how many of its tokens are found in the prefix cache, beside a server of one core
    kill      as many streams as `--streams`, half of them on a core that gets `kill -9` once all have begun; each must
              come to its end with the text of an undisturbed run

Exit status 1 if a goal is missed. Which core computed an answer is what its `timings` say.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.bench.answer import read_answer, read_events
from fast_inference.bench.connection import Exchange
from fast_inference.bench.goals import Figure, verdict_on
from fast_inference.bench.interruption import Interruption, errors_as_exits
from fast_inference.bench.own_server import OwnServer, own_server
from fast_inference.bench.target import RequestOptions, Target
from fast_inference.bench.workload import Load, Prompt, RandomPrompts
from fast_inference.cli_bench import split_at_dashes
from ipc.errors import ConfigError

PARTS = ("spread", "prefixes", "kill")
OPTIONS = RequestOptions(extra_body={"timings": True}, timeout_s=120.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """One stream, read to its end."""

    text: str
    cores: tuple[str, ...]
    """Names of those that computed it, in this order."""
    num_prompt_tokens: int
    num_cached_tokens: int
    longest_gap_s: float
    """Between two chunks of text."""


def read(exchange: Exchange) -> Answer:
    """Take a stream apart.

    Raises:
        ConfigError: it is not a whole answer.
    """
    result = read_answer(exchange)
    if result.failure is not None:
        raise ConfigError(f"a request failed: {result.failure.text}")
    events = [orjson.loads(data) for _, data in read_events(bytes(exchange.body)) if data != b"[DONE]"]
    timings: dict[str, Any] = next(event["timings"] for event in events if "timings" in event)
    text = "".join(choice["text"] for event in events for choice in event["choices"])
    gaps = [later - earlier for earlier, later in pairwise(result.chunk_times)]
    return Answer(text, tuple(timings["cores"]), result.prompt_tokens, result.cached_tokens, max(gaps, default=0.0))


async def ask(server: OwnServer, prompts: Sequence[Prompt], concurrency: int) -> list[Answer]:
    """The answers to all, in order of the prompts, with so many of them at once."""
    target = await Target.parse(server.url).with_model(OPTIONS, None)
    numbers = iter(range(len(prompts)))
    answers: dict[int, Answer] = {}

    async with target.client(OPTIONS) as client, asyncio.TaskGroup() as group:

        async def ask_one_after_the_other() -> None:
            for number in numbers:
                answers[number] = read(await client.exchange(target.request(prompts[number], OPTIONS)))

        for _ in range(concurrency):
            group.create_task(ask_one_after_the_other())
    return [answers[number] for number in range(len(prompts))]


def spread(server: OwnServer, arguments: argparse.Namespace, interruption: Interruption) -> list[Figure]:
    """Different prompts."""
    load = Load(arguments.requests, arguments.prompt_words, arguments.tokens, concurrency=arguments.concurrency)
    prompts = RandomPrompts(arguments.seed).prompts(load, arguments.requests)
    answers = interruption.run(lambda: ask(server, prompts, arguments.concurrency))
    counts = Counter(answer.cores[-1] for answer in answers)
    print(f"spread: {len(answers)} requests, {arguments.concurrency} at once: {shown(counts)}")
    share = min(counts[name] for name in names_of(server)) / len(answers)
    return [Figure("spread: smallest share of a core", 100 * share * arguments.cores, 70, "%", is_minimum=True)]


def prefixes(answers: Sequence[Answer], alone: Sequence[Answer], groups: Sequence[int]) -> list[Figure]:
    """What became of prompts of groups with a beginning of their own, on several cores and on one."""
    cores_of_group: dict[int, list[str]] = defaultdict(list)
    for group, answer in zip(groups, answers, strict=True):
        cores_of_group[group].append(answer.cores[-1])
    num_repeats = sum(len(cores) - 1 for cores in cores_of_group.values())
    num_at_home = sum(Counter(cores).most_common(1)[0][1] - 1 for cores in cores_of_group.values())
    cached, cached_alone = (sum(answer.num_cached_tokens for answer in of) for of in (answers, alone))
    if not cached_alone:
        raise ConfigError("one core finds no prompt token in its prefix cache: raise --prefix-words or --requests")
    num_tokens = sum(answer.num_prompt_tokens for answer in answers)
    counts = Counter(answer.cores[-1] for answer in answers)
    print(
        f"prefixes: {len(answers)} requests of {len(cores_of_group)} groups: {shown(counts)}; {num_at_home} of "
        f"{num_repeats} repeats where the group is at home; cached {cached} of {num_tokens} prompt tokens, with one "
        f"core {cached_alone}"
    )
    return [
        Figure("prefixes: repeats on the same core", 100 * num_at_home / num_repeats, 95, "%", is_minimum=True),
        Figure("prefixes: cached tokens beside one core", 100 * cached / cached_alone, 90, "%", is_minimum=True),
    ]


def grouped_prompts(arguments: argparse.Namespace) -> tuple[list[Prompt], list[int]]:
    """Prompts and the group of each, shuffled."""
    draw = random.Random(arguments.seed)
    per_group = arguments.requests // arguments.groups
    load = Load(per_group, arguments.prompt_words, arguments.tokens, concurrency=1)
    pairs = [
        (prompt, group)
        for group in range(arguments.groups)
        for prompt in RandomPrompts(1000 + group, prefix_len=arguments.prefix_words).prompts(load, per_group)
    ]
    draw.shuffle(pairs)
    return [prompt for prompt, _ in pairs], [group for _, group in pairs]


def kill(server: OwnServer, arguments: argparse.Namespace, interruption: Interruption) -> list[Figure]:
    """Streams, and the end of one core in their middle."""
    load = Load(arguments.streams, arguments.prompt_words, arguments.stream_tokens, concurrency=arguments.streams)
    prompts = RandomPrompts(arguments.seed + 1).prompts(load, arguments.streams)
    calm = interruption.run(lambda: ask(server, prompts, arguments.streams))
    victim = names_of(server)[-1]

    async def disturbed() -> list[Answer]:
        asking = asyncio.create_task(ask(server, prompts, arguments.streams))
        await asyncio.sleep(arguments.kill_after)
        os.kill(pids_of(server)[victim], signal.SIGKILL)
        return await asking

    answers = interruption.run(disturbed)
    moved = [number for number, answer in enumerate(answers) if len(answer.cores) > 1 or victim in answer.cores]
    stayed = [number for number in range(len(answers)) if number not in moved]
    num_exact = sum(answer.text == before.text for answer, before in zip(answers, calm, strict=True))
    calm_gap, gap, moved_gap = (
        max((of[number].longest_gap_s for number in numbers), default=0.0)
        for of, numbers in ((calm, range(len(calm))), (answers, stayed), (answers, moved))
    )
    print(
        f"kill: {len(answers)} streams of {arguments.stream_tokens} tokens, core {victim} killed after "
        f"{arguments.kill_after} s: {num_exact} as undisturbed; {len(moved)} had that core and paused for "
        f"{moved_gap:.2f} s at most, {len(stayed)} had not: their longest gap {gap:.3f} s, undisturbed {calm_gap:.3f} s"
    )
    return [
        Figure("kill: streams with the text of an undisturbed run", num_exact, len(answers), is_minimum=True),
        Figure("kill: streams that lost their core", len(moved), 1, is_minimum=True),
        Figure(
            "kill: streams of the other core that were resubmitted", sum(len(answers[n].cores) > 1 for n in stayed), 0
        ),
    ]


def names_of(server: OwnServer) -> list[str]:
    """Of its cores."""
    return [core["name"] for core in server.status()["cores"]]


def pids_of(server: OwnServer) -> dict[str, int]:
    """Of its cores, by name."""
    return {core["name"]: core["pid"] for core in server.status()["cores"]}


def shown(counts: Counter[str]) -> str:
    """For people."""
    return ", ".join(f"core {name} {count}" for name, count in sorted(counts.items()))


def main() -> None:
    """Run the parts and judge."""
    parser = argparse.ArgumentParser(description="requests on several cores of one server")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all of them without")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--groups", type=int, default=20, help="of prompts with the same beginning")
    parser.add_argument("--prefix-words", type=int, default=200, help="that a group shares")
    parser.add_argument("--prompt-words", type=int, default=40, help="of each prompt, behind what it shares")
    parser.add_argument("--tokens", type=int, default=16, help="of each answer")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--streams", type=int, default=40, help="that run when a core is killed")
    parser.add_argument("--stream-tokens", type=int, default=200)
    parser.add_argument("--kill-after", type=float, default=1.0, help="seconds")
    parser.add_argument("--step-ms", type=float, default=20, help="of the fake model")
    parser.add_argument("--seed", type=int, default=0)
    own_flags, server_flags = split_at_dashes(sys.argv[1:])
    arguments = parser.parse_args(own_flags)
    parts = arguments.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part is called {min(unknown)}")
    if arguments.groups < 1 or arguments.requests < 2 * arguments.groups:
        parser.error("--requests must be at least twice --groups, or no request of a group is a repeat")
    if "kill" in parts and arguments.cores < 2:
        parser.error("kill needs two cores at least")
    flags = [arguments.model, "--frontends", "2", *server_flags]
    if arguments.model == "fake":
        flags += ["--fake-step-ms", str(arguments.step_ms)]
    figures: list[Figure] = []
    with errors_as_exits(), Interruption() as interruption:
        prompts, groups = grouped_prompts(arguments)
        answers: list[Answer] = []
        with own_server([*flags, "--cores", str(arguments.cores)]) as server:
            if "spread" in parts:
                figures += spread(server, arguments, interruption)
            if "prefixes" in parts:
                answers = interruption.run(lambda: ask(server, prompts, arguments.concurrency))
            if "kill" in parts:
                figures += kill(server, arguments, interruption)
        if answers:
            with own_server(flags) as single:
                alone = interruption.run(lambda: ask(single, prompts, arguments.concurrency))
            figures += prefixes(answers, alone, groups)
    print(*figures, sep="\n")
    sys.exit(verdict_on(figures))


if __name__ == "__main__":
    main()
