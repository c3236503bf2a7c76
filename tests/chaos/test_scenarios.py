"""The short forms of the scenarios, in the order of the catalogue: what `scripts/chaos` runs in full.

The server that `drain` ends in order has been through all that comes before it.
"""

import asyncio
from collections.abc import Iterator

import pytest

from tests.chaos.harness.arena import Arena, arena_of
from tests.chaos.harness.figures import table
from tests.chaos.scenarios.catalogue import SCENARIOS, Scenario

pytestmark = pytest.mark.alone

SEED = 6
SLACK = 1.5
"""Other things run on the machine too: a time that is missed by less says nothing."""


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def arena(runner: asyncio.Runner) -> Iterator[Arena]:
    context = arena_of("fake", SEED, tokens=60, step_ms=20)
    yield runner.run(context.__aenter__())
    runner.run(context.__aexit__(None, None, None))


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s.short is not None], ids=lambda scenario: scenario.name)
def test_every_promise_is_kept(runner: asyncio.Runner, arena: Arena, scenario: Scenario):
    assert scenario.short is not None
    arena.ensure(*scenario.flags_for(arena.model))
    figures = runner.run(scenario.run(arena, scenario.short))
    shown = table(figures)
    print(shown)
    assert all(figure.is_met(SLACK) for figure in figures), f"seed {SEED}\n{shown}\n{arena.server.stderr[-2000:]}"
