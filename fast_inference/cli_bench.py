"""`fast-inference bench serve|throughput|latency`: the flags and what is printed.

Results go to stdout, what happens meanwhile to stderr. Exit status 1 where a request failed or nothing could be
measured, with one line that says why. After SIGINT and SIGTERM, what was complete is printed, and one line; the status
is 130 or 143. Everything slow to import is imported by the command.
Next: `bench/commands.py`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fast_inference.flags import FlagParser, positive_number
from ipc.exit_codes import EXIT_CONFIG_ERROR

if TYPE_CHECKING:
    from fast_inference.bench.interruption import Interruption

_SERVE_EXAMPLES = """\
examples:
  fast-inference bench serve --concurrency 1,8,32
  fast-inference bench serve --request-rate 2,4,8 --num-prompts 200 --plot load.png
  fast-inference bench serve --compare ours=http://127.0.0.1:8000 --compare other=http://127.0.0.1:8102
"""
_OWN_SERVER_EXAMPLES = """\
examples:
  fast-inference bench {kind}
  fast-inference bench {kind} --output-len 128 -- --quantization int8
"""
_ENDPOINTS = ("/v1/completions", "/v1/chat/completions")
Number = TypeVar("Number", int, float)


class _BenchParser(FlagParser):
    """Keeps what follows `--` for the server that the command starts."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse what comes before `--`."""
        arguments = list(args or ())
        own, server_flags = split_at_dashes(arguments)
        namespace, unknown = super().parse_known_args(own, namespace)
        namespace.server_flags = server_flags
        return namespace, unknown


def add_bench(commands: "argparse._SubParsersAction[FlagParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "bench",
        help="measure a server",
        description="Measure any OpenAI-compatible server: latency and throughput under load, in vLLM's metrics.",
    )
    kinds = parser.add_subparsers(required=True, metavar="KIND", parser_class=_BenchParser)
    _add_serve(kinds)
    _add_latency(kinds)
    _add_throughput(kinds)


def _add_serve(kinds: "argparse._SubParsersAction[_BenchParser]") -> None:
    parser = kinds.add_parser(
        "serve",
        usage="fast-inference bench serve [flags]",
        help="load a running server, or several in turn",
        description="Load a running server, in a closed loop (--concurrency) or an open one (--request-rate), or "
        "several servers in turn (--compare).",
        epilog=_SERVE_EXAMPLES,
    )
    servers = parser.add_mutually_exclusive_group()
    servers.add_argument("--url", help="base URL of the server (default: http://127.0.0.1:8000)")
    servers.add_argument(
        "--compare",
        action="append",
        type=_name_and_url,
        metavar="NAME=URL",
        help="a server by name (default: none); repeatable: the first is the baseline of the ratios",
    )
    levels = parser.add_mutually_exclusive_group()
    levels.add_argument(
        "--concurrency",
        type=_numbers(_at_least(1)),
        metavar="N,…",
        help="closed loop: requests under way at any time; several are measured one after the other (default: 1)",
    )
    levels.add_argument(
        "--request-rate",
        type=_numbers(positive_number),
        metavar="R,…",
        help="open loop: requests per second on average (default: none, a closed loop)",
    )
    parser.add_argument(
        "--burstiness",
        type=positive_number,
        metavar="X",
        help="with --request-rate: 1 is a Poisson process, less is burstier, more is more even (default: 1)",
    )
    parser.add_argument(
        "--num-prompts",
        type=_at_least(1),
        metavar="N",
        help="requests of each load and round (default: 4 times the concurrency and at least 16; 100 with a rate)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw throughput and times over the load (default: no)"
    )
    _add_common_flags(parser, "the first that the server lists")

    def run(flags: argparse.Namespace) -> int:
        if flags.burstiness is not None and not flags.request_rate:
            parser.error("--burstiness has an effect only with --request-rate")
        if flags.server_flags:
            parser.error("`bench serve` starts no server, so there are no flags after --")
        names = [name for name, _ in flags.compare or ()]
        if len(set(names)) < len(names):
            parser.error("--compare: each server needs a name of its own")
        flags.burstiness = flags.burstiness or 1.0
        if not flags.request_rate:
            flags.concurrency = flags.concurrency or [1]
        return _run_command("serve", flags)

    parser.set_defaults(run=run)


def _add_latency(kinds: "argparse._SubParsersAction[_BenchParser]") -> None:
    parser = kinds.add_parser(
        "latency",
        usage="fast-inference bench latency [flags] [-- flags of `fast-inference serve`]",
        help="one request after the other",
        description="One request after the other: time to first token and time per token. Starts a server unless "
        "--url names one.",
        epilog=_OWN_SERVER_EXAMPLES.format(kind="latency"),
    )
    _add_own_server_flags(parser, num_prompts=10)
    parser.set_defaults(run=lambda flags: _run_command("latency", _checked_own_server(parser, flags)))


def _add_throughput(kinds: "argparse._SubParsersAction[_BenchParser]") -> None:
    parser = kinds.add_parser(
        "throughput",
        usage="fast-inference bench throughput [flags] [-- flags of `fast-inference serve`]",
        help="many requests as fast as possible",
        description="Many requests as fast as possible: tokens per second. Starts a server unless --url names one.",
        epilog=_OWN_SERVER_EXAMPLES.format(kind="throughput"),
    )
    parser.add_argument(
        "--concurrency", type=_at_least(1), metavar="N", help="most requests under way (default: all at once)"
    )
    _add_own_server_flags(parser, num_prompts=200)
    parser.set_defaults(run=lambda flags: _run_command("throughput", _checked_own_server(parser, flags)))


def _add_own_server_flags(parser: argparse.ArgumentParser, num_prompts: int) -> None:
    parser.add_argument("--url", help="base URL of a running server (default: one is started and stopped)")
    parser.add_argument(
        "--num-prompts", type=_at_least(1), default=num_prompts, metavar="N", help=f"requests (default: {num_prompts})"
    )
    parser.set_defaults(plot=None)
    _add_common_flags(parser, "the first that the server lists, or the default model of `serve`")


def _checked_own_server(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> argparse.Namespace:
    if flags.url and flags.server_flags:
        parser.error("flags after -- are for a server that is started, and --url names one that runs")
    return flags


def _add_common_flags(parser: argparse.ArgumentParser, default_model: str) -> None:
    add = parser.add_argument
    add("--model", help=f"name of the model (default: {default_model})")
    add("--endpoint", choices=_ENDPOINTS, default=_ENDPOINTS[0], help=f"what is asked (default: {_ENDPOINTS[0]})")
    lengths = _numbers(_at_least(1))
    add("--input-len", type=lengths, default=[100], metavar="N,…", help="length of each prompt (default: 100)")
    add("--input-unit", choices=("words", "tokens"), default="words", help="what it is counted in (default: words)")
    add(
        "--vocab-size", type=_at_least(2), default=20_000, metavar="N",
        help="with --input-unit tokens: token ids are below it (default: 20000)",
    )  # fmt: skip
    add(
        "--prefix-len",
        type=_at_least(0),
        default=0,
        metavar="N",
        help="more of them before, the same in all (default: 0)",
    )
    add("--dataset", type=Path, metavar="FILE.jsonl", help="prompts of a file, one in a line (default: random)")
    add("--output-len", type=lengths, default=[64], metavar="N,…", help="tokens of each answer (default: 64)")
    add(
        "--ignore-eos", action=argparse.BooleanOptionalAction, default=True,
        help="ask for answers of exactly --output-len tokens (default: yes)",
    )  # fmt: skip
    add(
        "--extra-body",
        type=_json_object,
        default={},
        metavar="JSON",
        help="fields that win over those of each body (default: {})",
    )
    add("--num-warmups", type=_at_least(0), metavar="N", help="requests before each load (default: its concurrency)")
    add("--rounds", type=_at_least(1), default=1, metavar="N", help="repetitions; medians are printed (default: 1)")
    add("--seed", type=_at_least(0), metavar="N", help="of prompts and arrivals (default: from the clock)")
    add("--api-key", type=_api_key, metavar="KEY", help="key that requests carry (default: none)")
    add(
        "--keep-alive", action=argparse.BooleanOptionalAction, default=True,
        help="use connections for several requests (default: yes)",
    )  # fmt: skip
    add("--timeout", type=positive_number, default=600.0, metavar="S", help="seconds for a request (default: 600)")
    add("--output", type=Path, metavar="FILE.json", help="write all numbers as JSON (default: no)")


def _run_command(name: str, flags: argparse.Namespace) -> int:
    from fast_inference.bench.interruption import Interrupted, Interruption

    try:
        with Interruption() as interruption:
            return _run_interruptible(name, flags, interruption)
    except Interrupted as interrupted:
        print(f"error: {interrupted}", file=sys.stderr)
        return interrupted.exit_code


def _run_interruptible(name: str, flags: argparse.Namespace, interruption: "Interruption") -> int:
    from fast_inference.bench import commands

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    command = getattr(commands, name)
    failed = command(flags, without_secrets(sys.argv[1:]), tell, print, interruption)
    if failed:
        print(f"error: {failed} requests failed", file=sys.stderr)
    return EXIT_CONFIG_ERROR if failed else 0


def without_secrets(argv: Sequence[str]) -> list[str]:
    """The command line with dots for the value of each flag that has a key."""
    shown: list[str] = []
    for before, argument in zip(["", *argv], argv, strict=False):
        flag, equals, _ = argument.partition("=")
        if before.startswith("--") and before.endswith("-key"):
            shown.append("…")
        else:
            shown.append(f"{flag}=…" if equals and flag.endswith("-key") else argument)
    return shown


def split_at_dashes(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What comes before `--`, and what comes after it."""
    if "--" not in arguments:
        return arguments, []
    index = arguments.index("--")
    return arguments[:index], arguments[index + 1 :]


# --- types of flags: what they raise becomes one line ---


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text!r}")
        return int(text)

    return parse


def _numbers(parse: Callable[[str], Number]) -> Callable[[str], list[Number]]:
    return lambda text: [parse(part.strip()) for part in text.split(",")]


def _name_and_url(text: str) -> tuple[str, str]:
    name, equals, url = text.partition("=")
    if not (name and equals and "://" in url):
        raise argparse.ArgumentTypeError(f"must be NAME=URL, not {text!r}")
    return name, url


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"is no JSON: {error.msg}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, not {text!r}")
    return value


def _api_key(text: str) -> str:
    if not (text and text.isascii() and text.isprintable()):
        raise argparse.ArgumentTypeError("must be printable ASCII")
    return text
