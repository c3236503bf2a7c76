"""The engine core as a process: its signals, its garbage collector, and its life from loading to exit.

    LOADING ─▶ READY ─▶ DRAINING or RETIRING ─▶ exit 0        exit 1: configuration; exit 70: a bug

A signal ends it: at once while it loads, and when its requests are done after that. What a core consists of, and what
else ends it, is in `core_server.py`; the step loop runs on the main thread. Called by `__main__.py`.
"""

import gc
import os
import signal
from pathlib import Path

from engine_core.core_server import CorePlace, CoreServer
from engine_core.request_names import RequestNames
from ipc.exit_codes import EXIT_INTERNAL_ERROR
from ipc.process import raise_descriptor_limit


class EngineCoreProcess:
    """One engine core that has this process to itself."""

    def __init__(self, config_file: Path, place: CorePlace) -> None:
        """A standby core is found by clients only once it is ready, so that another one may serve while it loads.

        Raises:
            ConfigError: wrong settings, or another core runs in the slot.
        """
        self._server = CoreServer(
            config_file,
            on_io_failure=lambda: os._exit(EXIT_INTERNAL_ERROR),
            num_descriptors=raise_descriptor_limit(),
            place=place,
        )

    def run(self) -> None:
        """Load, serve until told to drain, and leave.

        Raises:
            ConfigError: the model cannot be loaded, or the settings contradict each other.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))  # nothing to drain while loading
        self._server.load()
        RequestNames(self._server.name_of).install()
        gc.collect()
        gc.freeze()  # what is alive now stays alive: spare the collector from walking it
        gc.enable()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._server.drain())
        self._server.serve()
        self._server.close()  # waits for no grammar: this process ends by `os._exit`, which minds no threads
