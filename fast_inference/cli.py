"""The command `fast-inference`: `serve`, `run-batch`, `reload`, `pull`, `models`, `plan`, `bench`, `keys`, `--version`.

Owns the exit statuses: 0 stopped in order, 1 a wrong setting, model or port (one line on stderr), 2 wrong usage,
130 interrupted. What is slow to import is imported by the command that needs it, so that `--help` is quick.
Next: `flags.py`, `settings.py`, then `launcher.py`; `cli_reload.py`, `cli_models.py`, `cli_plan.py`, `cli_bench.py`.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fast_inference import __version__
from fast_inference.cli_bench import add_bench
from fast_inference.cli_keys import add_keys
from fast_inference.cli_models import add_models, add_pull
from fast_inference.cli_plan import add_plan
from fast_inference.cli_reload import add_reload
from fast_inference.cli_run_batch import add_run_batch
from fast_inference.flags import FlagParser, add_setting_flags, given_flags
from ipc.errors import ConfigError
from ipc.exit_codes import EXIT_CONFIG_ERROR, SIGNAL_EXIT_BASE
from ipc.log import configure_logging

if TYPE_CHECKING:
    from fast_inference.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; wrong usage raises SystemExit(2), as argparse does."""
    parser = _parser()
    namespace = parser.parse_args(argv)
    return run_command(lambda: int(namespace.run(namespace)))


def run_command(command: Callable[[], int]) -> int:
    """Call a command and turn the errors that people cause into one line and an exit status."""
    try:
        return command()
    except ConfigError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return EXIT_CONFIG_ERROR
    except KeyboardInterrupt:
        return SIGNAL_EXIT_BASE + signal.SIGINT


def serve_with(settings: "Settings") -> int:
    """Start a server with resolved settings; warns of what was set and has no effect."""
    from fast_inference.api_keys import exposure_warning
    from fast_inference.launcher import serve
    from fast_inference.settings import environment_warnings, unused_setting_warnings
    from ipc.curve import CurveDir
    from ipc.tracing import check_packages

    configure_logging(settings, "launcher")
    if settings.curve_dir is not None:  # before anything slow
        CurveDir(settings.curve_dir).server_keys()
        CurveDir(settings.curve_dir).allowed_clients()
    if settings.otlp_traces_endpoint is not None:
        check_packages()
    for line in (*environment_warnings(os.environ), *unused_setting_warnings(settings)):
        print(f"warning: {line}", file=sys.stderr)
    if warning := exposure_warning(settings, settings):
        print(warning, file=sys.stderr)
    return serve(settings)


def _parser() -> FlagParser:
    parser = FlagParser(prog="fast-inference", description="An OpenAI-compatible LLM server for one machine.")
    parser.add_argument("--version", action="version", version=f"fast-inference {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands)
    add_run_batch(commands)
    add_pull(commands)
    add_models(commands)
    add_plan(commands)
    add_reload(commands)
    add_bench(commands)
    add_keys(commands)
    return parser


def _add_serve(commands: "argparse._SubParsersAction[FlagParser]") -> None:
    parser = commands.add_parser(
        "serve",
        argument_default=argparse.SUPPRESS,
        usage="fast-inference serve [MODEL] [flags]",
        help="start a server",
        description="Start a server. Settings come from flags, then the environment, then --config, then defaults.",
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings as YAML and exit")
    add_setting_flags(parser)

    def run(namespace: argparse.Namespace) -> int:
        from fast_inference.settings import resolve_settings, settings_as_yaml

        settings = resolve_settings(given_flags(parser, namespace))
        if hasattr(namespace, "print_config"):
            print(settings_as_yaml(settings), end="")
            return 0
        return serve_with(settings)

    parser.set_defaults(run=run)
