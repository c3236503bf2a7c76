"""The other cores of the server, watched for their death: clients bring what killed one of them to the next at once.

Asked by the I/O thread for each request that arrives (`quarantine.py`), so a look costs two system calls, however many
cores there are: the length of one file, to which each core appends a byte once it has begun its journal, and the pidfds
of all others at once. Journals are only read when one of the two has changed.
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


def announce_journal(server: RunDir) -> None:
    """Tell the other cores of this server that there is a new journal.

    Raises:
        OSError: the file cannot be written.
    """
    descriptor = os.open(server.journal_count_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, b".")
    finally:
        os.close(descriptor)


class PeerCores:
    """Those beside this one."""

    def __init__(self, server: RunDir, run_dirs: Sequence[RunDir]) -> None:
        """`run_dirs` are those of the others, whether they run or not; `server` is that of all."""
        self._count_file = os.fspath(server.journal_count_file)
        self._run_dirs = run_dirs
        self._num_journals = 0
        """That had been announced when they were last looked at."""
        self._writers: dict[Path, CrashId] = {}
        """Whose each journal was then."""
        self._pidfds: dict[int, CrashId] = {}
        """Who it is, by descriptor."""
        self._epoll = select.epoll()

    def has_news(self) -> bool:
        """True if since the last look a core has died, or has started after one."""
        has_news = False
        try:
            num_journals = os.stat(self._count_file).st_size
        except OSError:  # none has started, or the server ends
            num_journals = 0
        if num_journals != self._num_journals:
            self._num_journals = num_journals  # before they are looked at: what comes meanwhile is for the next look
            journals = [run_dir.slot_journal_file(slot) for run_dir in self._run_dirs for slot in CORE_SLOTS]
            news = [self._look_into(journal) for journal in journals]  # each of them, not only to the first with news
            has_news = any(news)
        for descriptor, _ in self._epoll.poll(0):
            self._forget(descriptor)
            has_news = True
        return has_news

    def close(self) -> None:
        """Stop watching."""
        for descriptor in [*self._pidfds]:
            self._forget(descriptor)
        self._epoll.close()

    def _look_into(self, journal: Path) -> bool:
        """True if it is that of a core that was not known."""
        found = read_journal(journal)
        if found is None or self._writers.get(journal) == found[0].crash_id:
            return False
        self._writers[journal] = found[0].crash_id
        self._watch(found[0].crash_id)
        return True

    def _watch(self, peer: CrashId) -> None:
        if peer in self._pidfds.values():
            return
        try:
            descriptor = open_pidfd(peer.pid, peer.start_ticks)
        except OSError as error:
            log.warning("cannot watch another core (pid %d): %s", peer.pid, error.strerror)
            return
        if descriptor is not None:
            self._pidfds[descriptor] = peer
            self._epoll.register(descriptor, select.EPOLLIN)

    def _forget(self, descriptor: int) -> None:
        del self._pidfds[descriptor]
        self._epoll.unregister(descriptor)
        os.close(descriptor)
