"""`fast-inference doctor`: would `serve` with these settings start here, and be fast; see `fast_inference/doctor/`."""

import argparse
import sys

from fast_inference.flags import FlagParser, add_setting_flags, given_flags
from ipc.config import CacheConfig, LauncherConfig, ModelConfig, SchedulerConfig
from ipc.exit_codes import EXIT_CONFIG_ERROR

_EXAMPLES = """\
examples:
  fast-inference doctor                                  the default model on the default port
  fast-inference doctor models/mine --port 80 --json
  fast-inference doctor --config configs/cpu.yaml

exit status: 0 a server can start, 1 something keeps it from that
"""


def add_doctor(commands: "argparse._SubParsersAction[FlagParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "doctor",
        argument_default=argparse.SUPPRESS,
        usage="fast-inference doctor [MODEL] [flags]",
        help="look for what keeps a server from starting or being fast",
        description="Check processors, threads, memory, compiler and kernels, packages, the model and its cache, port, "
        "folders and limits for `serve` with the same settings, and say what to do. Compiles the CPU kernels if "
        "that was not done yet; changes nothing else.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--json", action="store_true", default=False, help="print JSON (default: no)")
    add_setting_flags(parser, (LauncherConfig, ModelConfig, CacheConfig, SchedulerConfig))

    def run(namespace: argparse.Namespace) -> int:
        from fast_inference.console import replace_what_does_not_fit
        from fast_inference.doctor.checkup import check_all, has_failed, print_report, report_as_json
        from fast_inference.progress import StartProgress
        from fast_inference.settings import resolve_settings

        settings = resolve_settings(given_flags(parser, namespace))
        with StartProgress() as progress:
            report = check_all(settings, progress)
        replace_what_does_not_fit(sys.stdout)
        if namespace.json:
            print(report_as_json(report))
        else:
            print_report(report, sys.stdout)
        return EXIT_CONFIG_ERROR if has_failed(report) else 0

    parser.set_defaults(run=run)
