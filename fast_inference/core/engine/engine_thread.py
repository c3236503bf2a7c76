"""An engine core in a thread of this process, on a private run dir: the step loop here, its I/O thread beside it.

Made by `create.py`. It touches no signal handler and ends no process: what would end a core process ends this thread,
and `ended` tells. The model is loaded on the thread that runs it, which torch's settings for threads hold for.
Invariant: after `stop` neither thread, socket nor file of it is left. Next: `engine_core/core_server.py`.
"""

import logging
import os
import resource
import shutil
import sys
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path

from engine_core.core_server import CoreServer, LoadRunner
from fast_inference.config_file import write_config
from fast_inference.core.engine.waiting import result_of
from fast_inference.settings import Settings
from ipc.endpoints import RunDir

log = logging.getLogger(__name__)

_GRAMMARS_TIMEOUT_S = 5.0
"""What is being compiled gets so long to end: Python must not end under it."""


class EngineFolder:
    """The files of one engine: its run dir, and a private folder for whatever else it needs."""

    def __init__(self, settings: Settings) -> None:
        """Make them; the run dir lies in the private folder unless the settings name one.

        Raises:
            ConfigError: the run dir cannot be had, or another server uses it.
        """
        self.path = Path(tempfile.mkdtemp(prefix="fast-inference-"))
        self.run_dir = RunDir(settings.run_dir or self.path / "run")
        try:
            self.run_dir.create()
            self._lock = self.run_dir.lock_launcher()
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def remove(self) -> None:
        """Remove everything."""
        self.run_dir.remove_files()
        os.close(self._lock)
        shutil.rmtree(self.path, ignore_errors=True)


class EngineThread:
    """A core that runs until `stop`, or until it fails."""

    def __init__(self, settings: Settings, run_dir: RunDir, load_runner: LoadRunner) -> None:
        """Start it, and wait until its model is loaded.

        Raises:
            ConfigError: the model cannot be loaded, or the settings contradict each other.
        """
        write_config(settings.model_copy(update={"run_dir": run_dir.path}), run_dir.config_file)
        run_dir.forget_crashes()
        self.ended: Future[None] = Future()
        """Done when the core is gone; with the error where it failed."""
        self._loaded: Future[None] = Future()
        self._server = CoreServer(
            run_dir.config_file,
            on_io_failure=self._on_io_failure,
            num_descriptors=_num_descriptors(),
        )
        self._thread = threading.Thread(target=self._run, args=[load_runner], name="engine core", daemon=True)
        self._thread.start()
        try:
            result_of(self._loaded)
        except BaseException:  # also an interrupt while it loads
            self.stop()
            raise

    @property
    def is_current(self) -> bool:
        """True on the thread itself, which cannot wait for its own end."""
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """End what runs with an error, and the thread; returns when it has ended. Later calls do nothing."""
        self._server.drain()
        self._thread.join()

    def _run(self, load_runner: LoadRunner) -> None:
        error: Exception | None = None
        try:
            self._server.load(load_runner)
            self._loaded.set_result(None)
            self._server.serve()
        except Exception as failure:  # the top of this thread
            error = failure
            if self._loaded.done():
                log.exception("the engine core failed")
        finally:
            self._server.close("failed" if error else "drained", grammars_timeout_s=_GRAMMARS_TIMEOUT_S)
        if error is None:
            self.ended.set_result(None)
        elif self._loaded.done():
            self.ended.set_exception(error)
        else:
            self.ended.set_result(None)
            self._loaded.set_exception(error)

    def _on_io_failure(self) -> None:
        """Nobody can reach the core any more."""
        self._server.give_up()


def _num_descriptors() -> int:
    """How many files this process may have open, which is left as it is."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else sys.maxsize
