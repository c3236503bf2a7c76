import asyncio
import json

import pytest

from fast_inference.ray_executor.fleet import RayFleet
from fast_inference.ray_executor.fleet_state import FleetCore, FleetState
from fast_inference.settings import resolve_settings
from ipc.core_directory import read_cores
from ipc.endpoints import RunDir
from tests.programs import free_port


@pytest.fixture
def run_dir(tmp_path):
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    return run_dir


def fleet_of(run_dir, cores="2:3", failures=None):
    return RayFleet(run_dir, cores, lambda: None, (failures if failures is not None else []).append)


def ready_core(name):
    return FleetCore(name, "node", "10.0.0.1", "ready", 7, 1, num_blocks=8, num_running=2)


def test_what_is_written_is_what_is_read(tmp_path):
    state = FleetState("loading", 1, 2, (FleetCore("0", "node", "host", "ready", 7, 1, restarts={"signal": 2}),))
    state.write(tmp_path / "fleet.json")
    assert FleetState.read(tmp_path / "fleet.json") == state


def test_before_the_agent_has_said_anything_there_is_no_core(run_dir):
    fleet = fleet_of(run_dir)
    fleet.prepare()
    assert read_cores(run_dir) == {}
    assert not fleet.is_ready
    assert [core.state for core in fleet.statuses()] == ["stopped"]


def test_ready_with_the_fewest_cores_and_all_of_them_in_the_status(run_dir):
    async def scenario():
        fleet = fleet_of(run_dir)
        following = asyncio.create_task(fleet._follow())
        for number in (1, 2):
            FleetState("", number, 2, tuple(ready_core(str(name)) for name in range(number))).write(run_dir.fleet_file)
            while len(fleet.statuses()) < number or not fleet.is_ready:  # noqa: ASYNC110  it polls as well
                await asyncio.sleep(0.01)
            assert fleet.are_all_ready == (number == 2)
        assert [(core.name, core.state) for core in fleet.statuses()] == [("0", "ready"), ("1", "ready")]
        assert (fleet.num_blocks, fleet.num_running) == (16, 4)
        following.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_wrong_address_ends_the_server_at_once(run_dir, capfd):
    async def scenario():
        settings = {"ray_address": f"127.0.0.1:{free_port()}", "log_level": "info", "log_format": "text"}
        run_dir.config_file.write_text(json.dumps({**_shared(), **settings}))
        failures = []
        fleet = fleet_of(run_dir, failures=failures)
        running = asyncio.create_task(fleet.run())
        while not failures:  # noqa: ASYNC110  of another process
            await asyncio.sleep(0.01)
        running.cancel()
        assert failures == [None]
        assert "cannot connect to Ray at 127.0.0.1" in capfd.readouterr().err

    asyncio.run(asyncio.wait_for(scenario(), 60))


def _shared():
    settings = resolve_settings({"model": "fake", "executor": "ray", "served_model_name": "fake"})
    return settings.model_dump(mode="json", exclude={"config"})
