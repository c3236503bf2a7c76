"""What the journals of a server's cores say about requests: who was running when which core died, and who is innocent.

Read by a core that starts, and by one that lives when another one has died (`quarantine.py`). A crash counts once for
a request, however often and wherever it is read, since it has the name of the process that died. What one core has
found out counts for all: a request that got past the place of a crash is acquitted of that crash everywhere.
Next: `crash_journal.py`, where this is written.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine_core.crash_journal import Acquittal, CrashId, Suspect, read_journal

WINDOW_S = 600.0
"""After which a crash is forgotten."""


@dataclass(frozen=True, slots=True)
class CrashEvidence:
    """Suspects and acquittals, by digest; nobody is suspected of a crash that it is acquitted of."""

    suspects: dict[bytes, Suspect] = field(default_factory=dict)
    acquittals: dict[bytes, Acquittal] = field(default_factory=dict)

    def with_journals(self, journals: Iterable[Path], max_tokens_per_step: int, now_s: float) -> "CrashEvidence":
        """The same with what these journals say; what living cores are running is no evidence."""
        found = [item for item in map(read_journal, journals) if item is not None]
        suspects = [*self.suspects.values(), *(item for record, _ in found for item in record.suspects)]
        acquittals = [*self.acquittals.values(), *(item for record, _ in found for item in record.acquittals)]
        known = _merged_suspects(item for item in suspects if now_s - item.crashed_at_s < WINDOW_S)
        latest = []
        for record, step in found:
            if record.is_alive:
                continue
            num_steps_before = step - record.step  # without drafts: before and after those the record is written anew
            num_new_tokens = num_steps_before + 1 if num_steps_before else max_tokens_per_step
            crashes = frozenset([record.crash_id])
            for request in record.running:
                if request.digest not in known or record.crash_id not in known[request.digest].crashes:
                    num_tokens = request.num_output_tokens + num_new_tokens
                    latest.append(Suspect(request.digest, crashes, now_s, num_tokens))
        acquitted = _merged_acquittals(item for item in acquittals if now_s - item.at_s < WINDOW_S)
        return CrashEvidence(_without(_merged_suspects([*known.values(), *latest]), acquitted), acquitted)


def _merged_suspects(suspects: Iterable[Suspect]) -> dict[bytes, Suspect]:
    """One for each digest, with all crashes; its tokens are those of the latest one."""
    merged: dict[bytes, Suspect] = {}
    for item in suspects:
        other = merged.get(item.digest, item)
        latest = max(item, other, key=_by_time)
        merged[item.digest] = replace(latest, crashes=item.crashes | other.crashes)
    return merged


def _merged_acquittals(acquittals: Iterable[Acquittal]) -> dict[bytes, Acquittal]:
    merged: dict[bytes, Acquittal] = {}
    for item in acquittals:
        other = merged.get(item.digest, item)
        merged[item.digest] = Acquittal(item.digest, item.crashes | other.crashes, max(item.at_s, other.at_s))
    return merged


def _without(suspects: dict[bytes, Suspect], acquittals: dict[bytes, Acquittal]) -> dict[bytes, Suspect]:
    nothing: frozenset[CrashId] = frozenset()
    left = {}
    for digest, suspect in suspects.items():
        crashes = suspect.crashes - (acquittals[digest].crashes if digest in acquittals else nothing)
        if crashes:
            left[digest] = replace(suspect, crashes=crashes)
    return left


def _by_time(suspect: Suspect) -> tuple[float, int]:
    return suspect.crashed_at_s, suspect.num_output_tokens
