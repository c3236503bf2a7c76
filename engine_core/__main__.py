"""`python -m engine_core --config RUN_DIR/config.json`: the engine core, as the launcher starts it.

`--slot N` says which socket and lock are its own, `--standby` that another core serves while this one loads. One of
several cores is told which one it is (`--core`), on which CPUs it computes, and what it may take of the memory.
Exit codes: 0 drained, 1 configuration (one line in the run dir, and on stderr, but for one of several cores, as others
would say the same), 70 a bug (with a trace in the log).
"""

import argparse
import contextlib
import faulthandler
import gc
import logging
import os
import sys
from pathlib import Path

from engine_core.cpus import format_cpus, parse_cpus
from engine_core.device import MachineShare
from ipc.config import LogConfig, load_section
from ipc.endpoints import CORE_SLOTS, RunDir
from ipc.errors import ConfigError
from ipc.exit_codes import EXIT_CONFIG_ERROR, EXIT_INTERNAL_ERROR
from ipc.log import configure_logging
from ipc.process import STACK_DUMP_SIGNAL, die_with_parent


def main() -> int:
    """Run the engine core to its end; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m engine_core")
    parser.add_argument("--config", type=Path, required=True, help="config.json in the run dir")
    parser.add_argument("--slot", type=int, choices=CORE_SLOTS, default=0, help="which socket and lock are its own")
    parser.add_argument("--standby", action="store_true", help="let clients find it only once it is ready")
    parser.add_argument("--core", type=int, default=0, metavar="K", help="which of several cores it is")
    parser.add_argument("--cores", type=int, default=1, metavar="N", help="how many there are on this machine")
    parser.add_argument("--cpus", type=parse_cpus, metavar="LIST", help="where it computes, such as 0-3,8")
    parser.add_argument("--memory-bytes", type=int, metavar="B", help="the most of the memory that it plans with")
    arguments = parser.parse_args()
    faulthandler.enable()
    faulthandler.register(STACK_DUMP_SIGNAL)  # written by C code, so that it works while Python hangs
    gc.disable()  # collecting while modules load takes half a second and finds nothing; `process` turns it on again
    try:
        die_with_parent()
        configure_logging(
            load_section(arguments.config, LogConfig), "core" if arguments.cores == 1 else f"core-{arguments.core}"
        )
        if arguments.cpus:
            _stay_on(arguments.cpus)  # before torch counts them
        from engine_core.core_server import CorePlace  # after logging, which its imports may use
        from engine_core.process import EngineCoreProcess

        share = MachineShare(arguments.cores, arguments.memory_bytes)
        EngineCoreProcess(arguments.config, CorePlace(arguments.core, arguments.slot, arguments.standby, share)).run()
    except ConfigError as error:
        _tell(error, arguments)
        return EXIT_CONFIG_ERROR
    except Exception:  # the top of the process
        logging.getLogger("engine_core").exception("the engine core failed")
        return EXIT_INTERNAL_ERROR
    return 0


def _stay_on(cpus: set[int]) -> None:
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise ConfigError(f"cannot compute on CPUs {format_cpus(cpus)}: {error.strerror}") from error


def _tell(error: ConfigError, arguments: argparse.Namespace) -> None:
    """Say why it cannot start where its launcher looks for that."""
    run_dir = RunDir(arguments.config.parent)
    error_file = run_dir.standby_error_file if arguments.standby else run_dir.of_core(arguments.core).core_error_file
    with contextlib.suppress(OSError):  # the run dir is gone, or there never was one
        error_file.write_text(error.message)
    if arguments.cores == 1 or arguments.standby:
        sys.stderr.write(f"error: {error.message}\n")


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # no waiting for threads of native libraries
