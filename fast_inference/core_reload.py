"""Replaces the engine cores while they serve: for new weights, another model, or a new version of the code.

Used by `launcher.py` on SIGHUP. A second process loads in the other slot of a core while the first one serves; once it
is ready, clients find it, and the first one retires: it finishes what it runs. Several cores are replaced one after the
other; the first that cannot be ends the reload, and where another model was asked for, those before it go back.
Invariant: until a new core is ready nothing has changed for anybody, so a reload that fails harms no request.
Next: `core_supervisor.py`; `cli_reload.py` is the command that asks for it and waits for the outcome.
"""

import asyncio
import json
import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_inference.core_fleet import CoreFleet
from fast_inference.core_process import CoreProcess
from fast_inference.core_supervisor import CORE_GRACE_S, CoreSupervisor
from fast_inference.settings import Settings, served_names
from fast_inference.status import ReloadState, ReloadStatus
from ipc.endpoints import RunDir
from ipc.errors import ConfigError, EngineUnavailableError, ServerError
from ipc.messages import CallMethod

log = logging.getLogger(__name__)

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class ReloadRequest:
    """What is asked for; by default the same model again."""

    id: str = ""
    """By which whoever asked finds the outcome in the status."""
    model: str | None = None
    """As the user named it."""
    folder: str | None = None
    """What the core loads for it."""

    def write(self, run_dir: RunDir) -> None:
        """Leave it for the launcher."""
        temporary = run_dir.reload_file.with_suffix(".tmp")
        temporary.write_text(json.dumps({"id": self.id, "model": self.model, "folder": self.folder}))
        os.replace(temporary, run_dir.reload_file)

    @classmethod
    def take(cls, run_dir: RunDir) -> "ReloadRequest":
        """Read what was left, and remove it; a plain request where there is nothing.

        Raises:
            ConfigError: what was left is no request.
        """
        try:
            values = json.loads(run_dir.reload_file.read_text())
            run_dir.reload_file.unlink()
            return cls(str(values["id"]), values["model"], values["folder"])
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"cannot read {run_dir.reload_file}: {error}") from error


class CoreReload:
    """Does one reload after the other."""

    def __init__(self, settings: Settings, run_dir: RunDir, cores: CoreFleet, on_change: Callable[[], None]) -> None:
        """`settings` are those that the launcher was started with; `on_change` is called whenever `status` changes."""
        self._settings = settings
        self._run_dir = run_dir
        self._cores = cores
        self._on_change = on_change
        self.status: ReloadStatus | None = None
        """Of the latest reload."""

    async def run(self) -> None:
        """Replace the cores, one after the other; what goes wrong is in the log and in `status`."""
        request, reason = ReloadRequest(), ""
        try:
            request = ReloadRequest.take(self._run_dir)
            self._tell(request, ReloadState.LOADING)
            await self._replace_all(request)
        except (ConfigError, OSError) as error:
            reason = _message(error)
            log.error("the reload failed: %s", reason)
        for path in (self._run_dir.standby_config_file, self._run_dir.standby_error_file):
            path.unlink(missing_ok=True)
        self._tell(request, ReloadState.FAILED if reason else ReloadState.DONE, reason)

    async def _replace_all(self, request: ReloadRequest) -> None:
        """Replace each core in turn, up to the first that cannot be; then nothing has another model than before.

        Raises:
            ConfigError, OSError: a new core did not become ready; it is gone.
        """
        if not self._cores.has_been_ready:
            raise ConfigError("the server has not been ready yet")
        config_before = self._run_dir.config_file.read_text()
        config = json.dumps(self._new_config(request), indent=2) + "\n"
        processes_before = [core.active for core in self._cores.supervisors]
        for core in self._cores.supervisors:
            try:
                await self._replace(core, config, request)
            except (ConfigError, OSError) as error:
                pairs = zip(self._cores.supervisors, processes_before, strict=True)
                changed = [other for other, process in pairs if other.active is not process]
                if request.model is not None and changed and not self._cores.is_stopping:
                    log.error("the reload failed at core %s: %s; those before it go back", core.name, _message(error))
                    await self._take_back(changed, config_before, request)
                raise

    async def _take_back(self, changed: Sequence[CoreSupervisor], config: str, request: ReloadRequest) -> None:
        """Give cores the model of before; one that cannot load it beside the other one is ended and started anew."""
        self._write(self._run_dir.config_file, config)
        for core in changed:
            try:
                await self._replace(core, config, request)
            except (ConfigError, OSError) as error:
                if self._cores.is_stopping:
                    return
                log.error("core %s starts anew with the model of before: %s", core.name, _message(error))
                assert core.active is not None
                core.active.child.send_signal(signal.SIGKILL)

    async def _replace(self, core: CoreSupervisor, config: str, request: ReloadRequest) -> None:
        """Put a new process in the place of a core, and have the old one finish what it runs."""
        self._tell(request, ReloadState.LOADING)
        before = await self._bring_up(core, config)
        self._tell(request, ReloadState.RETIRING)
        await self._retire(before)
        core.run_dir.slot_journal_file(before.slot).unlink(missing_ok=True)  # its requests went on elsewhere
        core.publish()

    async def _bring_up(self, core: CoreSupervisor, config: str) -> CoreProcess:
        """Load a new process and make it the one that serves; returns the one before.

        Raises:
            ConfigError: the new process did not become ready; it is gone.
            OSError: it could not be started.
        """
        self._write(self._run_dir.standby_config_file, config)
        standby = await core.start_standby()
        try:
            await self._wait_ready(standby)
            await self._check_tokenizer(standby)
            os.replace(self._run_dir.standby_config_file, self._run_dir.config_file)
            return core.promote(standby)
        finally:
            if standby is not core.active:
                standby.child.send_signal(signal.SIGKILL)
                await standby.child.wait()
                core.publish()

    def _write(self, path: Path, config: str) -> None:
        """Replace a configuration, which only we may read."""
        temporary = path.with_suffix(".tmp")
        temporary.touch(mode=0o600)
        temporary.write_text(config)
        os.replace(temporary, path)

    def _new_config(self, request: ReloadRequest) -> dict[str, Any]:
        """What the core reads now, with the model that is asked for.

        Raises:
            ConfigError, OSError: the configuration in the run dir is gone, or the model cannot be looked for.
        """
        try:
            config: dict[str, Any] = json.loads(self._run_dir.config_file.read_text())
        except ValueError as error:
            raise ConfigError(f"cannot read {self._run_dir.config_file}: {error}") from error
        if request.model is not None:
            config["model"] = request.folder or request.model
            config["served_model_name"] = served_names(self._settings.model_copy(update={"model": request.model}))
        return config

    async def _wait_ready(self, standby: CoreProcess) -> None:
        """Return once the core accepts requests.

        Raises:
            ConfigError: it ended or hung before that, or the server is told to stop.
        """
        while not standby.is_ready:
            if standby.child.exited.is_set():
                raise ConfigError(self._why_it_ended(standby))
            if self._cores.is_stopping:
                raise ConfigError("the server stops")
            await standby.kill_if_it_hangs()
            await asyncio.sleep(_POLL_S)
        standby.note_ready()

    async def _check_tokenizer(self, standby: CoreProcess) -> None:
        """Load what the frontends will load, since after the change of cores it would be too late to find it wrong.

        Raises:
            ConfigError: the tokenizer or the chat template cannot be used.
        """
        from frontend.tokenizer import FrontendTokenizer  # no start pays for this import

        welcome = standby.client.welcome
        assert welcome is not None
        template = Path(self._settings.chat_template) if self._settings.chat_template else None
        await asyncio.to_thread(FrontendTokenizer.load, Path(welcome.tokenizer_dir), template)

    def _why_it_ended(self, standby: CoreProcess) -> str:
        try:
            return self._run_dir.standby_error_file.read_text().strip()
        except OSError:  # it did not come to saying so
            return f"the new engine core {standby.exit_text} before it was ready"

    async def _retire(self, core: CoreProcess) -> None:
        """Have a core finish what it runs, and wait for its end."""
        if core.is_ready:
            try:
                await core.client.call(CallMethod.RETIRE)
            except (EngineUnavailableError, ServerError) as error:
                log.warning("%s (pid %d) does not retire: %s", core.child.name, core.child.pid, error.message)
                core.child.send_signal(signal.SIGTERM)
        else:
            core.child.send_signal(signal.SIGTERM)
        await core.client.close()
        if not await core.child.wait(self._settings.drain_timeout + CORE_GRACE_S):
            log.warning("%s (pid %d) did not retire in time; killed", core.child.name, core.child.pid)
            core.child.send_signal(signal.SIGKILL)
            await core.child.wait()

    def _tell(self, request: ReloadRequest, state: ReloadState, reason: str = "") -> None:
        self.status = ReloadStatus(request.id, state, reason)
        self._on_change()


def _message(error: ConfigError | OSError) -> str:
    return error.message if isinstance(error, ConfigError) else str(error)
