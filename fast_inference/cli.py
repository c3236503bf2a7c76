"""The command `fast-inference`: `serve` and all other verbs, each in a module `cli_VERB.py`, and `--version`.

Owns the exit statuses: 0 stopped in order, 1 a wrong setting, model or port (one line on stderr), 2 wrong usage,
130 interrupted, 141 nobody reads the output any more. What is slow to import is imported by the command that needs it,
so that `--help` is quick.
Next: `flags.py`, `settings.py`, then `launcher.py`; `cli_chat.py`, `cli_status.py`, `cli_doctor.py` and the others.
"""

import argparse
import errno
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fast_inference import __version__
from fast_inference.cli_bench import add_bench
from fast_inference.cli_chat import add_chat
from fast_inference.cli_complete import add_complete
from fast_inference.cli_completion import add_completion
from fast_inference.cli_doctor import add_doctor
from fast_inference.cli_keys import add_keys
from fast_inference.cli_models import add_models, add_pull
from fast_inference.cli_plan import add_plan
from fast_inference.cli_reload import add_reload
from fast_inference.cli_run_batch import add_run_batch
from fast_inference.cli_status import add_status
from fast_inference.console import drop_output, open_missing_streams, printable
from fast_inference.flags import FlagParser, add_setting_flags, given_flags
from ipc.errors import ConfigError
from ipc.exit_codes import EXIT_CONFIG_ERROR, SIGNAL_EXIT_BASE
from ipc.log import configure_logging

if TYPE_CHECKING:
    from fast_inference.settings import Settings

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_EXAMPLES = """\
examples:
  fast-inference serve              a server with the embedded model on http://127.0.0.1:8000
  fast-inference chat               talk with it, in another terminal
  fast-inference doctor             what is in the way, where it does not start or is slow

Each command shows its flags with --help. Every setting of `serve` is also an environment variable
FAST_INFERENCE_NAME and a key of a file (--config).
"""
_SERVE_EXAMPLES = """\
examples:
  fast-inference serve                                      the embedded model
  fast-inference serve models/mine --port 9000 --api-key secret
  fast-inference serve --config configs/cpu.yaml --print-config
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; wrong usage raises SystemExit(2), as argparse does."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # of `__main__.py`, until here
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def run() -> int:
        parser = _parser()
        namespace = parser.parse_args(argv)
        return int(namespace.run(namespace))

    return run_command(run)


def run_command(command: Callable[[], int]) -> int:
    """Call a command and turn the errors that people cause into one line and an exit status.

    What it has printed is written before it returns, so that a reader that has left or a full disk counts, too.
    """
    open_missing_streams()
    try:
        try:
            return _status_of(command)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output wants no more of it, as `head` does
        drop_output()
        return SIGNAL_EXIT_BASE + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        drop_output()
        print(f"error: cannot write {error.filename or 'the output'}: {error.strerror}", file=sys.stderr)
        return EXIT_CONFIG_ERROR


def _status_of(command: Callable[[], int]) -> int:
    try:
        return command()
    except ConfigError as error:
        print(f"error: {printable(error.message)}", file=sys.stderr)
        return EXIT_CONFIG_ERROR
    except KeyboardInterrupt:
        return SIGNAL_EXIT_BASE + signal.SIGINT


def serve_with(settings: "Settings") -> int:
    """Start a server with resolved settings; warns of what was set and has no effect."""
    from fast_inference.api_keys import exposure_warning
    from fast_inference.launcher import serve
    from fast_inference.ray_executor.fleet import check_installed
    from fast_inference.remote_fleet import remote_cores
    from fast_inference.settings import unused_setting_warnings
    from ipc.curve import CurveDir
    from ipc.tracing import check_packages

    configure_logging(settings, "launcher")
    if settings.connect:  # before anything slow
        remote_cores(settings)
    elif settings.curve_dir is not None:
        CurveDir(settings.curve_dir).server_keys()
        CurveDir(settings.curve_dir).allowed_clients()
    if settings.otlp_traces_endpoint is not None:
        check_packages()
    if settings.executor == "ray":
        check_installed()
    for line in unused_setting_warnings(settings):
        print(f"warning: {line}", file=sys.stderr)
    if warning := exposure_warning(settings, settings):
        print(warning, file=sys.stderr)
    return serve(settings)


def _parser() -> FlagParser:
    parser = FlagParser(
        prog="fast-inference", description="An OpenAI-compatible LLM server for one machine.", epilog=_EXAMPLES
    )
    parser.add_argument("--version", action="version", version=f"fast-inference {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands)
    add_chat(commands)
    add_complete(commands)
    add_run_batch(commands)
    add_pull(commands)
    add_models(commands)
    add_plan(commands)
    add_status(commands)
    add_doctor(commands)
    add_reload(commands)
    add_bench(commands)
    add_keys(commands)
    add_completion(commands, parser)
    return parser


def _add_serve(commands: "argparse._SubParsersAction[FlagParser]") -> None:
    parser = commands.add_parser(
        "serve",
        argument_default=argparse.SUPPRESS,
        usage="fast-inference serve [MODEL] [flags]",
        help="start a server",
        description="Start a server. Settings come from flags, then the environment, then --config, then defaults.",
        epilog=_SERVE_EXAMPLES,
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved settings as YAML and exit (default: no)"
    )
    add_setting_flags(parser)

    def run(namespace: argparse.Namespace) -> int:
        from fast_inference.settings import resolve_settings, settings_as_yaml

        settings = resolve_settings(given_flags(parser, namespace))
        if hasattr(namespace, "print_config"):
            print(settings_as_yaml(settings), end="")
            return 0
        return serve_with(settings)

    parser.set_defaults(run=run)
