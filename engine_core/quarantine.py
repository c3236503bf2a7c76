"""Requests that may have killed a core: tried again one at a time, and refused when a core died with them twice.

Whatever ran when a core died is a suspect. Suspects come back one at a time, at first alone; one that gets past the
place at which the core died is innocent. If the core dies again, the suspect that was running then is quarantined:
refused for `WINDOW_S`, whoever sends it. So a request that kills costs two restarts, and the others lose nothing.
Requests are the same here if they have the same content (`request_intake.content_digest`), since clients retry.

Used by `core.EngineCore` on the step loop; `refusal` is asked on the I/O thread. Next: `crash_journal.py`.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from engine_core.crash_journal import CrashJournal, RunningRequest, Suspect, read_journal
from engine_core.outputs import RequestKey, SchedulerOutput
from engine_core.request import Request

log = logging.getLogger(__name__)

WINDOW_S = 600.0
MAX_CRASHES = 2
"""A request that was running in this many within the window is refused."""
MAX_TOKENS_ALONE = 8
"""A suspect that has further to go runs beside the others, which would wait too long for it."""


def suspects_after(journals: Iterable[Path], max_tokens_per_step: int, now_s: float) -> dict[bytes, Suspect]:
    """Who is suspected by the journals of cores that died, by digest; journals of living cores tell nothing."""
    records = [found for found in map(read_journal, journals) if found is not None and not found[0].is_alive]
    before: dict[bytes, Suspect] = {}
    for suspect in sorted((item for record, _ in records for item in record.suspects), key=_crashed_at_s):
        if now_s - suspect.crashed_at_s < WINDOW_S:
            before[suspect.digest] = suspect
    suspects = dict(before)
    for record, step in records:
        num_steps_before = step - record.step  # without drafts: before and after those the record is written anew
        num_new_tokens = num_steps_before + 1 if num_steps_before else max_tokens_per_step
        for request in record.running:
            num_crashes = before[request.digest].num_crashes + 1 if request.digest in before else 1
            num_output_tokens = request.num_output_tokens + num_new_tokens
            known = suspects.get(request.digest)
            if known is not None and known.crashed_at_s == now_s:  # several requests with the same content
                num_output_tokens = max(num_output_tokens, known.num_output_tokens)
            suspects[request.digest] = Suspect(request.digest, num_crashes, now_s, num_output_tokens)
    return suspects


def _crashed_at_s(suspect: Suspect) -> float:
    return suspect.crashed_at_s


class Quarantine:
    """Suspects of earlier cores, and the journal of this one."""

    def __init__(self, journal: CrashJournal | None = None, suspects: dict[bytes, Suspect] | None = None) -> None:
        """Without a journal nobody learns who was running; for an engine that has no successor."""
        self._journal = journal
        self._suspects = suspects or {}
        self._running: dict[RequestKey, Request] = {}
        """What the runner has."""
        self._tried: Request | None = None
        """The suspect that may run."""
        self._held: deque[Request] = deque()
        """Suspects that wait for it."""
        self._step = 0
        self._had_drafts = False
        """In the last step, which then gave an unknown number of tokens."""
        self._is_written = True
        if suspects:
            log.warning("%d requests were running when a core died; they come back one at a time", len(suspects))
            self._write(0)

    # --- who may run ---

    def refusal(self, digest: bytes) -> str:
        """Why a request with this content is refused; empty if it is not."""
        suspect = self._suspect(digest)
        if suspect is None or suspect.num_crashes < MAX_CRASHES:
            return ""
        return f"The engine died {suspect.num_crashes} times while it computed this request."

    def may_run(self, request: Request) -> bool:
        """True if the request can be queued now; else it is held, and comes out of `released` later."""
        if self._suspect(request.digest) is None:
            return True
        if self._tried is None:
            self._tried = request
            return True
        self._held.append(request)
        return False

    def _suspect(self, digest: bytes) -> Suspect | None:
        """What is held against requests with this content, if it has happened lately."""
        suspect = self._suspects.get(digest)
        return None if suspect is None or time.time() - suspect.crashed_at_s > WINDOW_S else suspect

    @property
    def alone(self) -> Request | None:
        """The suspect whose next step nobody else should share: if it kills the core, it was alone."""
        tried = self._tried
        return tried if tried is not None and self._num_tokens_to_pass(tried) <= MAX_TOKENS_ALONE else None

    def _num_tokens_to_pass(self, request: Request) -> int:
        """Tokens until the request is past the place where the core died."""
        return self._suspects[request.digest].num_output_tokens - request.num_output_tokens

    def released(self) -> list[Request]:
        """Requests that were held and can be queued now; asked after each step."""
        if self._tried is not None and self._num_tokens_to_pass(self._tried) <= 0:
            self._clear(self._tried.digest)
            self._tried = None
        released: list[Request] = []
        while self._tried is None and self._held:
            request = self._held.popleft()
            if self.may_run(request):
                released.append(request)
        return released

    def on_finished(self, request: Request, *, is_innocent: bool) -> None:
        """A request has ended, wherever it was; one that came to its own end has not killed the core."""
        self._running.pop(request.key, None)
        if request is self._tried:
            if is_innocent:
                self._clear(request.digest)
            self._tried = None
        elif request in self._held:
            self._held.remove(request)
        if not self._running:
            self._write(self._step)

    def _clear(self, digest: bytes) -> None:
        del self._suspects[digest]
        self._is_written = False

    # --- what the next core must know ---

    def begin_step(self, plan: SchedulerOutput, requests: dict[RequestKey, Request]) -> None:
        """Note who runs in this step, before anything of it is computed."""
        if plan.new_requests or plan.dropped_request_keys:
            for key in plan.dropped_request_keys:
                self._running.pop(key, None)
            self._running.update({new.key: requests[new.key] for new in plan.new_requests})
            self._is_written = False
        has_drafts = any(item.draft_token_ids for item in plan.scheduled)
        if has_drafts or self._had_drafts:
            self._is_written = False
        self._had_drafts = has_drafts
        self._step = plan.step
        if not self._is_written:
            self._write(plan.step)
        elif self._journal is not None:
            self._journal.set_step(plan.step)

    def _write(self, step: int) -> None:
        self._is_written = True
        if self._journal is not None:
            running = tuple(RunningRequest(item.digest, item.num_output_tokens) for item in self._running.values())
            self._journal.write(step, running, tuple(self._suspects.values()))
