"""`python -m engine_core --config RUN_DIR/config.json`: the engine core, as the launcher starts it.

`--slot N` says which socket and lock are its own, `--standby` that another core serves while this one loads.
Exit codes: 0 drained, 1 configuration (one line on stderr and in the run dir), 70 a bug (with a
trace in the log).
"""

import argparse
import contextlib
import faulthandler
import gc
import logging
import os
import sys
from pathlib import Path

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
    arguments = parser.parse_args()
    faulthandler.enable()
    faulthandler.register(STACK_DUMP_SIGNAL)  # written by C code, so that it works while Python hangs
    gc.disable()  # collecting while modules load takes half a second and finds nothing; `process` turns it on again
    try:
        die_with_parent()
        configure_logging(load_section(arguments.config, LogConfig), "core")
        from engine_core.process import EngineCoreProcess  # after logging, which its imports may use

        EngineCoreProcess(arguments.config, slot=arguments.slot, is_standby=arguments.standby).run()
    except ConfigError as error:
        sys.stderr.write(f"error: {error.message}\n")
        with contextlib.suppress(OSError):  # a run dir that is gone, or none
            RunDir(arguments.config.parent).standby_error_file.write_text(error.message)
        return EXIT_CONFIG_ERROR
    except Exception:  # the top of the process
        logging.getLogger("engine_core").exception("the engine core failed")
        return EXIT_INTERNAL_ERROR
    return 0


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # no waiting for threads of native libraries
