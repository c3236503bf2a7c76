"""`scripts/chaos`: break a server in every way and check what it promises.

    scripts/chaos                                        # every scenario, fake model, about an hour
    scripts/chaos core-kill-fail drain --rounds 3        # some of them
    scripts/chaos --model smollm2-135m-instruct drain    # with a real model; answers are compared just the same
    scripts/chaos --list

Each scenario has a server of its own, on a free port of this machine. Every promise is printed with its figure and
its goal; exit status 1 if one was not kept. The seed is printed first: with the same one the same requests are asked,
cut at the same bytes, and the same processes struck in the same order. Times mean something only where nothing else
runs.
"""

import argparse
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace

from fast_inference.bench.interruption import Interrupted, Interruption
from ipc.errors import FastInferenceError
from tests.chaos.harness.arena import FAKE_MODEL, Arena, arena_of
from tests.chaos.harness.figures import Figure, all_of, none_of, table
from tests.chaos.scenarios.catalogue import SCENARIOS, Scenario

_REAL_TOKENS_SHARE = 1 / 3


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{scenario.name:<20} {scenario.promise}" for scenario in SCENARIOS))
        return 0
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    if unknown := set(options.scenarios) - by_name.keys():
        parser.error(f"no scenario {', '.join(sorted(unknown))}; --list shows them")
    chosen = [by_name[name] for name in options.scenarios] or list(SCENARIOS)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}, model {options.model}")
    broken: list[str] = []
    try:
        with Interruption() as interruption:
            for scenario in chosen:
                if scenario.needs_fake and options.model != FAKE_MODEL:
                    print(f"\n{scenario.name}: not run, it needs the fake model")
                    continue
                print(f"\n{scenario.name}: {scenario.promise}", flush=True)
                began_at = time.monotonic()
                figures = interruption.run(lambda: _run(scenario, options, seed))  # noqa: B023  run before the next turn
                print(table(figures))
                print(f"  {time.monotonic() - began_at:.0f} s", flush=True)
                broken += [f"{scenario.name}: {figure.promise}" for figure in figures if not figure.is_met()]
    except Interrupted as interrupted:
        print(f"error: {interrupted}", file=sys.stderr)
        return interrupted.exit_code
    if broken:
        print(f"\n{len(broken)} promises were not kept (seed {seed}):", *broken, sep="\n  ")
        return 1
    print(f"\nall promises were kept (seed {seed})")
    return 0


async def _run(scenario: Scenario, options: argparse.Namespace, seed: int) -> list[Figure]:
    scale = scenario.full
    scale = scale if options.rounds is None else replace(scale, rounds=options.rounds)
    scale = scale if options.seconds is None or not scale.seconds else replace(scale, seconds=options.seconds)
    tokens = scenario.tokens if options.model == FAKE_MODEL else int(scenario.tokens * _REAL_TOKENS_SHARE)
    async with arena_of(
        options.model, seed, *scenario.flags_for(options.model), tokens=tokens, num_questions=scenario.num_questions
    ) as arena:
        try:
            figures = await scenario.run(arena, scale)
            figures.append(_orderly_end(arena))
        except (TimeoutError, subprocess.TimeoutExpired, FastInferenceError, OSError) as error:
            figures = [none_of(0, "steps of the scenario that could not be done", [repr(error)])]
        finally:
            if options.keep_log:
                shutil.copy(arena.server.stderr_file, options.keep_log)
    return figures


def _orderly_end(arena: Arena) -> Figure:
    """After all of it the server, or the one after it where it was to end, still ends in order."""
    arena.ensure()
    arena.server.process.terminate()
    status = arena.server.process.wait(60)
    return all_of(46, "orderly SIGTERM afterwards, exit status 0", int(status == 0), 1, detail=f"exit status {status}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description="break a server and check what it promises")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="of --list; all where none is given")
    parser.add_argument("--list", action="store_true", help="print the scenarios and what each promises")
    parser.add_argument("--seed", type=int, help="of a run that is to be repeated; random where not given")
    parser.add_argument("--rounds", type=int, help="instead of those of each scenario")
    parser.add_argument("--seconds", type=float, help="of scenarios that go on for a time (soak, mixture)")
    parser.add_argument("--model", default=FAKE_MODEL, help="as `serve` takes it")
    parser.add_argument("--keep-log", help="file that gets the server's log of the last scenario")
    return parser


if __name__ == "__main__":
    sys.exit(main())
