#!/usr/bin/env python3
"""Simulates fleets of engine cores behind frontends, with our routing policy and with others.

    scripts/simulate_fleet.py --cores 32 --rates 0.5,1,1.5,2,2.5 --plot fleet.png       # four policies over the load
    scripts/simulate_fleet.py --workloads chat,documents,unique --cores 10,100,1000     # over the number of cores
    scripts/simulate_fleet.py --cores 32 --failures 4 --policies ours                   # cores die
    scripts/simulate_fleet.py --cores 8 --scale 4:32 --rates 3                          # their number follows the load
    scripts/simulate_fleet.py --validate --cores 2 --rates 2                            # against a real server
    scripts/simulate_fleet.py --fit profile.json --model smollm2-135m-instruct          # measure the step-time model

What is simulated, and what is not, is in docs/scaling.md; the code is `fast_inference/bench/fleet`. All but `--fit` and
`--validate` gives the same figures each time, on any machine.
"""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.bench.fleet.policies import MAKERS
from fast_inference.bench.fleet.report import draw, row_of, table_of, write_json
from fast_inference.bench.fleet.scenario import Outcome, Scenario
from fast_inference.bench.fleet.simulation import Scaling
from fast_inference.bench.fleet.step_time import load_profile, save_profile
from fast_inference.bench.fleet.workloads import SHAPES
from fast_inference.bench.plot import require_matplotlib
from ipc.config import FAKE_MODEL
from ipc.errors import ConfigError

if TYPE_CHECKING:  # they import torch, which a simulation does without
    from fast_inference.bench.fleet.fitting import MeasuredModel

PROFILE = "smollm2-cpu"
NUM_BLOCKS = 2048
"""Of a server that is measured."""


def tell(text: str) -> None:
    """To people, beside what is printed."""
    print(text, file=sys.stderr, flush=True)


def simulate(arguments: argparse.Namespace) -> None:
    """All scenarios, as a table, JSON and a picture."""
    if arguments.plot:
        require_matplotlib()
    outcomes: list[Outcome] = []
    for scenario in scenarios_of(arguments):
        outcome = scenario.run()
        outcomes.append(outcome)
        tell(f"{row_of(outcome)} in {outcome.took_s:.1f} s")
    print("\n".join(table_of(outcomes)))
    if arguments.json:
        write_json(outcomes, arguments.json)
    if arguments.plot:
        draw(outcomes, arguments.plot)


def scenarios_of(arguments: argparse.Namespace) -> list[Scenario]:
    """One for each workload, number of cores, load and policy."""
    profile = load_profile(arguments.profile or PROFILE)
    if arguments.num_blocks:
        profile = profile.with_blocks(arguments.num_blocks)
    return [
        Scenario(
            policy,
            workload,
            num_cores,
            rate,
            profile,
            duration_s=arguments.duration,
            warm_up_s=arguments.warm_up,
            cores_per_frontend=arguments.cores_per_frontend,
            num_failures=arguments.failures,
            start_s=arguments.start_time,
            scaling=arguments.scale,
            max_num_seqs=arguments.max_num_seqs,
            seed=arguments.seed,
        )
        for workload in arguments.workloads
        for num_cores in arguments.cores
        for rate in arguments.rates
        for policy in arguments.policies
    ]


def measured_model_of(arguments: argparse.Namespace) -> "MeasuredModel":
    """What `--fit` and `--validate` measure."""
    from fast_inference.bench.fleet.fitting import MeasuredModel

    return MeasuredModel(
        arguments.model,
        arguments.threads,
        arguments.fake_step_ms,
        arguments.fake_token_us,
        arguments.max_num_seqs,
        arguments.num_blocks or NUM_BLOCKS,
    )


def fit(arguments: argparse.Namespace) -> None:
    """Measure a profile and write it."""
    from fast_inference.bench.fleet.fitting import measure_profile

    command = "scripts/simulate_fleet.py " + shlex.join(sys.argv[1:])
    delay_s = arguments.request_delay_ms / 1e3
    profile = measure_profile(measured_model_of(arguments), delay_s, command, tell, arguments.seed)
    save_profile(profile, arguments.fit)
    print(f"{arguments.fit}: {profile.description}")


def validate(arguments: argparse.Namespace) -> bool:
    """Play the same requests against a server and the simulation; True where all figures are close."""
    from fast_inference.bench.fleet.fitting import measure_profile
    from fast_inference.bench.fleet.validation import BOUND, Validation

    model = measured_model_of(arguments)
    if arguments.profile:
        profile = load_profile(arguments.profile)
    else:
        profile = measure_profile(model, arguments.request_delay_ms / 1e3, "", tell, arguments.seed)
    policy = arguments.policies[0]
    if policy != "ours":
        raise ConfigError("--validate: a server has no other policy than ours: --policies ours")
    num_cores, rate = arguments.cores[0], arguments.rates[0]
    validation = Validation(
        model, arguments.workloads[0], num_cores, rate, arguments.duration, arguments.frontends, policy, arguments.seed
    )
    recorded = validation.record()
    print(f"{len(recorded)} requests in {arguments.duration:g} s to {num_cores} core(s); {profile.description}\n")
    comparisons = validation.compare(recorded, profile, arguments.rounds)
    print("| | measured | simulated | ratio |\n|---|---|---|---|")
    for row in comparisons:
        print(f"| {row.name} | {row.measured:.4g} | {row.simulated:.4g} | {row.ratio:.3f} |")
    outside = [row.name for row in comparisons if not row.is_close]
    print(f"\nnot within {BOUND:.0%}: {', '.join(outside) or 'none'}")
    return not outside


def list_of(kind: Callable[[str], float]) -> Callable[[str], list[float]]:
    """Numbers above 0 with commas between them."""

    def parse(text: str) -> list[float]:
        numbers = [kind(part) for part in text.split(",")]
        if min(numbers) <= 0:
            raise ValueError
        return numbers

    return parse


def one_of(names: list[str]) -> Callable[[str], list[str]]:
    """Some of these names, with commas between them."""

    def parse(text: str) -> list[str]:
        for name in text.split(","):
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(names)}")
        return text.split(",")

    return parse


def parse_scaling(text: str) -> Scaling:
    """`4:32`."""
    try:
        least, most = map(int, text.split(":"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN:MAX") from error
    if not 1 <= least <= most:
        raise argparse.ArgumentTypeError("1 ≤ MIN ≤ MAX must hold")
    return Scaling(least, most)


def parser_of_flags() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description="discrete-event simulation of engine cores behind frontends")
    parser.add_argument("--cores", type=list_of(int), default=[32], metavar="N,…")
    parser.add_argument("--rates", type=list_of(float), default=[2.0], metavar="R,…", help="requests/s for each core")
    parser.add_argument("--workloads", type=one_of(list(SHAPES)), default=["chat"], metavar="NAME,…")
    parser.add_argument("--policies", type=one_of(list(MAKERS)), default=list(MAKERS), metavar="NAME,…")
    parser.add_argument("--profile", help=f"a name, or a JSON file that --fit wrote; {PROFILE} where not set")
    parser.add_argument("--duration", type=float, default=120.0, help="seconds that count")
    parser.add_argument("--warm-up", type=float, default=120.0, help="simulated seconds before these")
    parser.add_argument("--cores-per-frontend", type=int, default=32)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--num-blocks", type=int, help="of a core's KV cache, instead of the profile's")
    parser.add_argument("--failures", type=int, default=0, help="cores that die, at equal distances")
    parser.add_argument("--start-time", type=float, default=30.0, help="seconds until a core is there")
    parser.add_argument("--scale", type=parse_scaling, metavar="MIN:MAX", help="the number of cores follows the load")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="or .svg; over --rates or over --cores")
    group = parser.add_argument_group("measuring")
    group.add_argument("--fit", type=Path, metavar="FILE.json", help="measure a profile and write it")
    group.add_argument("--validate", action="store_true", help="play --duration seconds against a server, too")
    group.add_argument("--model", default=FAKE_MODEL, help="as `serve` takes it")
    group.add_argument("--threads", type=int, default=1, help="of the model")
    group.add_argument("--fake-step-ms", type=float, default=20.0, help="of --model fake: time of a step")
    group.add_argument("--fake-token-us", type=float, default=200.0, help="and of each token in it")
    group.add_argument(
        "--request-delay-ms",
        type=float,
        default=4.0,
        help="what a request spends in frontends and sockets until its first token; it is not fitted",
    )
    group.add_argument("--frontends", type=int, default=2, help="of the server")
    group.add_argument("--rounds", type=int, default=1, help="runs of the server, of which medians are taken")
    return parser


def main() -> None:
    """Do what the flags say; exit status 1 where a validation is not within its bound."""
    arguments = parser_of_flags().parse_args()
    try:
        if arguments.fit:
            fit(arguments)
        elif not arguments.validate:
            simulate(arguments)
        elif not validate(arguments):
            sys.exit(1)
    except ConfigError as error:
        sys.exit(f"error: {error.message}")


if __name__ == "__main__":
    main()
