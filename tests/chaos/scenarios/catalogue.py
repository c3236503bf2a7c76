"""All scenarios: what each needs, how much of it is run on demand, and how much in the tests.

`command.py` runs the full ones, each on a server of its own; `test_scenarios.py` runs the short ones, on one server as
far as they leave it alive, with the orderly end of that one behind them. A scenario without a short form takes too long
for the tests; docs/reliability.md names what tests its promise beside it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.harness.arena import FAKE_MODEL, Arena
from tests.chaos.harness.figures import Figure
from tests.chaos.harness.scale import Scale
from tests.chaos.scenarios.clients import cut_streams, cut_whole_requests, leave_early
from tests.chaos.scenarios.core_loss import HANG_TIMEOUT_S, core_hang, core_kill_fail, core_kill_resume
from tests.chaos.scenarios.drains import drain, drain_limit, interrupt_twice
from tests.chaos.scenarios.frontend_loss import frontend_kill, frontend_stop
from tests.chaos.scenarios.junk import junk
from tests.chaos.scenarios.launcher_loss import crash_loop, launcher_kill
from tests.chaos.scenarios.mixture import mixture
from tests.chaos.scenarios.pauses import core_stop, frontend_pause, launcher_stop, long_prefill
from tests.chaos.scenarios.poison import FLAGS as POISON_FLAGS
from tests.chaos.scenarios.poison import poison
from tests.chaos.scenarios.reload import reload
from tests.chaos.scenarios.soak import soak


@dataclass(frozen=True)
class Scenario:
    """One of them; its function's docstring is what it promises."""

    run: Callable[[Arena, Scale], Awaitable[list[Figure]]]
    full: Scale
    short: Scale | None = None
    flags: tuple[str, ...] = ()
    """Of its server."""
    fake_flags: tuple[str, ...] = ()
    """More of them, with the fake model."""
    num_questions: int = 50
    tokens: int = 200
    """Of an answer, with the fake model; a real one is slower, and says a third."""
    needs_fake: bool = False
    """It is about a fault that only the fake model has."""

    def flags_for(self, model: str) -> tuple[str, ...]:
        """Of its server with this model."""
        return (*self.flags, *self.fake_flags) if model == FAKE_MODEL else self.flags

    @property
    def name(self) -> str:
        """As people type it."""
        return self.run.__name__.replace("_", "-")

    @property
    def promise(self) -> str:
        """One sentence."""
        return (self.run.__doc__ or "").strip()


_SLOW_PREFILL = ("--fake-token-us", "1700", "--max-prefill-chunk", "4096", "--max-num-batched-tokens", "4096")

_LONG_ANSWERS = ("--fake-step-ms", "75")
"""A request that nobody stops runs for much longer than it may take to stop it."""

SCENARIOS = (
    Scenario(core_kill_resume, Scale(rounds=20), Scale(streams=30)),
    Scenario(core_stop, Scale(rounds=10, pause_s=8), Scale(streams=30, pause_s=1)),
    Scenario(frontend_pause, Scale(rounds=10, pause_s=8), Scale(streams=30, pause_s=0.5)),
    Scenario(launcher_stop, Scale(rounds=10, pause_s=8), Scale(streams=30, pause_s=0.5)),
    Scenario(reload, Scale(rounds=5, streams=32)),
    Scenario(junk, Scale(rounds=1, total=10_000)),
    Scenario(mixture, Scale(rounds=3, seconds=120), Scale(streams=20, seconds=4)),
    Scenario(
        soak,
        Scale(streams=24, seconds=720),
        Scale(streams=20, seconds=2),
        fake_flags=("--fake-step-ms", "5"),
        tokens=60,
    ),
    Scenario(drain, Scale(rounds=10), Scale(streams=30)),
    Scenario(cut_streams, Scale(streams=100, total=1000), Scale(streams=40, total=40), fake_flags=_LONG_ANSWERS),
    Scenario(leave_early, Scale(streams=100, total=200), Scale(streams=50, total=50), fake_flags=_LONG_ANSWERS),
    Scenario(cut_whole_requests, Scale(streams=100, total=200), Scale(streams=50, total=50), fake_flags=_LONG_ANSWERS),
    Scenario(frontend_kill, Scale(rounds=10), Scale(streams=15), fake_flags=_LONG_ANSWERS),
    Scenario(interrupt_twice, Scale(rounds=10)),
    Scenario(drain_limit, Scale(rounds=10)),
    Scenario(core_kill_fail, Scale(rounds=20), flags=("--on-core-loss", "fail")),
    Scenario(poison, Scale(rounds=2), flags=POISON_FLAGS, needs_fake=True),  # a third would make it a crash loop
    Scenario(launcher_kill, Scale(rounds=10)),
    Scenario(frontend_stop, Scale(rounds=10, pause_s=12), tokens=600),
    Scenario(core_hang, Scale(rounds=3), flags=("--hang-timeout", str(HANG_TIMEOUT_S))),
    Scenario(long_prefill, Scale(rounds=2, streams=8), fake_flags=_SLOW_PREFILL, num_questions=8),
    Scenario(crash_loop, Scale(rounds=3)),
)
