"""Requests that may have killed a core: tried again one at a time, and refused when a core died with them twice.

Whatever ran when a core died is a suspect. Suspects come back one at a time, at first alone, with a step for all others
between two of them; one that gets past the place at which the core died is innocent. If the core dies again, the
suspect that was running then is quarantined: refused for `WINDOW_S`, whoever sends it. So a request that kills costs
two restarts, and the others lose nothing; that holds over all cores of a server: a core that lives learns of the death
of another one before it takes a request.
Requests are the same here if they have the same content (`request_intake.content_digest`), since clients retry.

Used by `core.EngineCore` on the step loop; `refusal` is asked on the I/O thread. Next: `crash_evidence.py`.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from engine_core.crash_evidence import WINDOW_S, CrashEvidence
from engine_core.crash_journal import Acquittal, CrashJournal, RunningRequest, Suspect
from engine_core.outputs import RequestKey, SchedulerOutput
from engine_core.request import Request

log = logging.getLogger(__name__)

MAX_CRASHES = 2
"""A request that was running in this many within the window is refused."""
MAX_TOKENS_ALONE = 8
"""A suspect that has further to go runs beside the others, which would wait too long for it."""
_NEWS = "%d requests were running when a core died; they come back one at a time"

LearnEvidence = Callable[[CrashEvidence], CrashEvidence | None]
"""Adds what other cores know by now; None where there is nothing new."""


class Quarantine:
    """What is known about requests, and the journal of this core."""

    def __init__(
        self,
        journal: CrashJournal | None = None,
        evidence: CrashEvidence | None = None,
        learn: LearnEvidence | None = None,
    ) -> None:
        """Without a journal nobody learns who was running; for an engine that has no successor.

        Args:
            journal: of this core.
            evidence: what is known when it starts.
            learn: asked for each request that arrives; None where there are no other cores.
        """
        self._journal = journal
        self._learn = learn
        evidence = evidence or CrashEvidence()
        self._lock = threading.Lock()
        """Of the two that follow, which the I/O thread adds to."""
        self._suspects = evidence.suspects
        self._acquittals = evidence.acquittals
        self._running: dict[RequestKey, Request] = {}
        """What the runner has."""
        self._tried: Request | None = None
        """The suspect that may run."""
        self._held: deque[Request] = deque()
        """Suspects that wait for it."""
        self._was_alone = False
        """In the last step nobody ran beside a suspect."""
        self._step = 0
        self._had_drafts = False
        """In the last step, which then gave an unknown number of tokens."""
        self._is_written = True
        if self._suspects:
            log.warning(_NEWS, len(self._suspects))

    # --- who may run ---

    def refusal(self, digest: bytes) -> str:
        """Why a request with this content is refused; empty if it is not. For the I/O thread, before it is queued."""
        self._look_at_others()
        suspect = self._suspect(digest)
        if suspect is None or suspect.num_crashes < MAX_CRASHES:
            return ""
        return f"The engine died {suspect.num_crashes} times while it computed this request."

    def _look_at_others(self) -> None:
        if self._learn is None:
            return
        with self._lock:
            learned = self._learn(CrashEvidence(self._suspects, self._acquittals))
            if learned is None:
                return
            num_new = len(learned.suspects.keys() - self._suspects.keys())
            self._suspects.update(learned.suspects)  # who is suspected here stays so until it is tried
            self._acquittals.update(learned.acquittals)
            self._is_written = False
        if num_new:
            log.warning(_NEWS, num_new)

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
        """Requests that were held and can be queued now; asked after each step. Between two suspects there is a step
        for the others, who would have to wait for all of them else.
        """
        if self._tried is not None and self._num_tokens_to_pass(self._tried) <= 0:
            self._acquit(self._tried.digest)
            self._tried = None
        released: list[Request] = []
        if self._was_alone and self._running:
            return released
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
                self._acquit(request.digest)
            self._tried = None
        elif request in self._held:
            self._held.remove(request)
        if not self._running:
            self._write(self._step)

    def _acquit(self, digest: bytes) -> None:
        with self._lock:
            crashes = self._suspects.pop(digest).crashes
            if digest in self._acquittals:
                crashes |= self._acquittals[digest].crashes
            self._acquittals[digest] = Acquittal(digest, crashes, time.time())
            self._is_written = False

    # --- what the next core must know ---

    def begin_step(self, plan: SchedulerOutput, requests: dict[RequestKey, Request]) -> None:
        """Note who runs in this step, before anything of it is computed."""
        self._was_alone = self.alone is not None
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
        with self._lock:
            self._is_written = True
            if self._journal is not None:
                running = [RunningRequest(item.digest, item.num_output_tokens) for item in self._running.values()]
                self._journal.write(step, running, self._suspects.values(), self._acquittals.values())
