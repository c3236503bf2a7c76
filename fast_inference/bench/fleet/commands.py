"""The command line of `scripts/simulate_fleet.py`: flags to scenarios, and what is done with the outcomes.

Read next: `scenario.py`, `simulation.py`; `validation.py` for `--validate`, `fitting.py` for `--fit`.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from fast_inference.bench.fleet import fitting, validation
from fast_inference.bench.fleet.policies import MAKERS
from fast_inference.bench.fleet.report import draw, print_table, row_of, write_json
from fast_inference.bench.fleet.scenario import Outcome, Scenario
from fast_inference.bench.fleet.simulation import Scaling
from fast_inference.bench.fleet.step_time import load_profile
from fast_inference.bench.fleet.workloads import SHAPES
from fast_inference.bench.plot import require_matplotlib
from ipc.errors import ConfigError


def main(description: str) -> None:
    """Do what the flags say; exit status 1 where a validation is outside of its bounds."""
    arguments = _parser(description).parse_args()
    try:
        if arguments.fit is not None:
            fitting.run(arguments)
        elif arguments.validate:
            if not validation.run(arguments):
                sys.exit(1)
        else:
            _simulate(arguments)
    except ConfigError as error:
        sys.exit(f"error: {error.message}")


def _simulate(arguments: argparse.Namespace) -> None:
    if arguments.plot:
        require_matplotlib()
    outcomes: list[Outcome] = []
    for scenario in _scenarios(arguments):
        outcome = scenario.run()
        outcomes.append(outcome)
        print(f"{row_of(outcome)} simulated in {outcome.took_s:.1f} s", file=sys.stderr, flush=True)
    print_table(outcomes)
    if arguments.json:
        write_json(outcomes, arguments.json)
    if arguments.plot:
        draw(outcomes, arguments.plot)


def _scenarios(arguments: argparse.Namespace) -> list[Scenario]:
    profile = load_profile(arguments.profile)
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


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cores", type=_list_of(int), default=[32], metavar="N,…")
    parser.add_argument("--rates", type=_list_of(float), default=[2.0], metavar="R,…", help="requests/s for each core")
    parser.add_argument("--workloads", type=_one_of(list(SHAPES)), default=["chat"], metavar="NAME,…")
    parser.add_argument("--policies", type=_one_of(list(MAKERS)), default=list(MAKERS), metavar="NAME,…")
    parser.add_argument("--profile", default="smollm2-cpu", help="a name, or a JSON file that --fit wrote")
    parser.add_argument("--duration", type=float, default=120.0, help="simulated seconds that count")
    parser.add_argument("--warm-up", type=float, default=120.0, help="simulated seconds before these")
    parser.add_argument("--cores-per-frontend", type=int, default=32)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--num-blocks", type=int, help="of a core's KV cache, instead of the profile's")
    parser.add_argument("--failures", type=int, default=0, help="cores that die, at equal distances")
    parser.add_argument("--start-time", type=float, default=30.0, help="seconds until a core is there")
    parser.add_argument("--scale", type=_scaling, metavar="MIN:MAX", help="the number of cores follows the load")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="or .svg; over --rates or over --cores")
    fitting.add_flags(parser)
    validation.add_flags(parser)
    return parser


def _list_of(kind: Callable[[str], float]) -> Callable[[str], list[float]]:
    def parse(text: str) -> list[float]:
        numbers = [kind(part) for part in text.split(",")]
        if min(numbers) <= 0:
            raise ValueError
        return numbers

    return parse


def _one_of(names: list[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        for name in text.split(","):
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(names)}")
        return text.split(",")

    return parse


def _scaling(text: str) -> Scaling:
    try:
        least, most = map(int, text.split(":"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN:MAX") from error
    if not 1 <= least <= most:
        raise argparse.ArgumentTypeError("1 ≤ MIN ≤ MAX must hold")
    return Scaling(least, most)
