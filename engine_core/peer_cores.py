"""The other cores of the server, watched for their death: clients bring what killed one of them to the next at once.

Asked by the I/O thread for each request that arrives (`quarantine.py`), so a look costs some microseconds: a poll of
the pidfds, and a stat of each other core's folder, where a core that starts puts a new journal.
Invariant: a death is seen by the first look after it, if the core had begun its journal.
"""

import logging
import os
import select
from collections.abc import Sequence
from pathlib import Path

from engine_core.crash_journal import CrashId, read_journal
from ipc.endpoints import CORE_SLOTS, RunDir
from ipc.process import open_pidfd

log = logging.getLogger(__name__)


class PeerCores:
    """Those beside this one."""

    def __init__(self, run_dirs: Sequence[RunDir]) -> None:
        """`run_dirs` are those of the others, whether they run or not."""
        self._run_dirs = run_dirs
        self._folder_times: dict[Path, int] = {}
        self._journals: dict[Path, int] = {}
        """Inode by path."""
        self._pidfds: dict[CrashId, int] = {}
        self._poll = select.poll()

    def has_news(self) -> bool:
        """True if since the last look a core has died, or has started after one."""
        news = [self._look_into(run_dir) for run_dir in self._run_dirs]
        dead = {descriptor for descriptor, _ in self._poll.poll(0)}
        for peer, descriptor in [*self._pidfds.items()]:
            if descriptor in dead:
                self._forget(peer)
        return any(news) or bool(dead)

    def close(self) -> None:
        """Stop watching."""
        for peer in [*self._pidfds]:
            self._forget(peer)

    def _look_into(self, run_dir: RunDir) -> bool:
        """True if there is a journal that was not there."""
        try:
            changed_at = os.stat(run_dir.path).st_mtime_ns
        except OSError:
            return False
        if self._folder_times.get(run_dir.path) == changed_at:
            return False
        self._folder_times[run_dir.path] = changed_at
        news = [self._look_at(run_dir.slot_journal_file(slot)) for slot in CORE_SLOTS]
        return any(news)

    def _look_at(self, journal: Path) -> bool:
        try:
            inode = os.stat(journal).st_ino
        except OSError:
            return False
        if self._journals.get(journal) == inode:
            return False
        self._journals[journal] = inode
        found = read_journal(journal)
        if found is None:
            return False
        self._watch(found[0].crash_id)
        return True

    def _watch(self, peer: CrashId) -> None:
        if peer in self._pidfds:
            return
        try:
            descriptor = open_pidfd(peer.pid, peer.start_ticks)
        except OSError as error:
            log.warning("cannot watch another core (pid %d): %s", peer.pid, error.strerror)
            return
        if descriptor is not None:
            self._pidfds[peer] = descriptor
            self._poll.register(descriptor, select.POLLIN)

    def _forget(self, peer: CrashId) -> None:
        descriptor = self._pidfds.pop(peer)
        self._poll.unregister(descriptor)
        os.close(descriptor)
