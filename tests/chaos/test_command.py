"""The command tells what it does, and its exit status whether every promise was kept."""

import pytest

from tests.chaos import command
from tests.chaos.harness.figures import Figure
from tests.chaos.harness.scale import Scale
from tests.chaos.scenarios.catalogue import SCENARIOS, Scenario


async def broken_promise(arena, scale):
    """Something that is never kept."""
    return [Figure(99, "something", 2, 1), Figure(98, "something else", 1, 1)]


async def stuck(arena, scale):
    """It does not come to its end."""
    raise TimeoutError


def test_the_list_names_every_scenario(capsys):
    assert command.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [scenario.name for scenario in SCENARIOS]


def test_an_unknown_scenario_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["no-such-thing"])
    assert caught.value.code == 2
    assert "no scenario no-such-thing" in capsys.readouterr().err


def test_a_broken_promise_is_exit_status_1_and_the_seed_is_told(capsys, monkeypatch):
    scenarios = [Scenario(run, Scale(), tokens=3, num_questions=2) for run in (broken_promise, stuck)]
    monkeypatch.setattr(command, "SCENARIOS", tuple(scenarios))
    assert command.main(["--seed", "7"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("seed 7, model fake\n")
    assert "  FAIL  99  something" in out
    assert "  pass  98  something else" in out
    assert "  pass  46  orderly SIGTERM afterwards" in out
    assert "2 promises were not kept (seed 7):\n  broken-promise: something\n  stuck: steps" in out
