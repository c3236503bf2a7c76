"""Whole fleets: every request ends once, whatever cores do, and the same seed gives the same."""

from dataclasses import replace

import pytest

from fast_inference.bench.fleet.core_model import CoreSettings
from fast_inference.bench.fleet.policies import MAKERS
from fast_inference.bench.fleet.simulation import FleetSettings, Scaling, Simulation
from fast_inference.bench.fleet.step_time import load_profile
from fast_inference.bench.fleet.workloads import SHAPES, Workload

CORE = CoreSettings(load_profile("smollm2-cpu").step_time, num_blocks=1024)
SETTINGS = FleetSettings(CORE, num_cores=4, num_frontends=2, duration_s=20.0, start_s=3.0)


def simulation_of(settings, *, policy="ours", workload="chat", rate=6.0, may_go_on=True, **options):
    sessions = Workload(SHAPES[workload], settings.num_cores, rate, settings.seed).sessions()
    return Simulation(settings, sessions, MAKERS[policy], may_go_on=may_go_on, **options)


def numbers_of(simulation):
    return sorted(request.number for request in simulation.finished)


@pytest.mark.parametrize("policy", MAKERS)
@pytest.mark.parametrize("workload", SHAPES)
def test_every_request_ends_once(policy, workload):
    simulation = simulation_of(SETTINGS, policy=policy, workload=workload)
    results = simulation.run()
    assert numbers_of(simulation) == list(range(results.num_finished))
    assert results.num_finished > 20
    assert results.num_unfinished == 0
    for request in simulation.finished:
        assert request.num_emitted == request.num_output_tokens
        assert request.arrived_s < request.first_token_s <= request.last_token_s
    assert results.num_output_tokens == sum(request.num_output_tokens for request in simulation.finished)
    assert results.requests_of_cores.total() == results.num_finished


def test_the_same_seed_gives_the_same_and_another_does_not():
    first, second = (simulation_of(SETTINGS).run().summary(20.0) for _ in range(2))
    assert first == second
    assert simulation_of(replace(SETTINGS, seed=1)).run().summary(20.0) != first


def test_the_closed_form_changes_nothing():
    at_once = simulation_of(SETTINGS).run().summary(20.0)
    one_by_one = simulation_of(SETTINGS, has_closed_form=False).run().summary(20.0)
    for name in ("cache_hit_rate", "requests_per_s"):
        assert at_once[name] == pytest.approx(one_by_one[name], rel=0.02)
    for name in ("ttft_p50_ms", "e2e_p50_ms", "utilisation"):
        assert at_once[name] == pytest.approx(one_by_one[name], rel=0.1)


def test_cores_that_die_lose_nothing():
    settings = replace(SETTINGS, failures_s=(4.0, 8.0, 8.1, 8.2, 8.3))
    simulation = simulation_of(settings, rate=10.0)
    results = simulation.run()
    assert numbers_of(simulation) == list(range(results.num_finished))
    assert all(request.num_emitted == request.num_output_tokens for request in simulation.finished)
    moved = [request for request in simulation.finished if request.num_moves]
    assert results.num_moved == sum(request.num_moves for request in moved) > 0


def test_requests_wait_where_the_only_core_has_died():
    simulation = simulation_of(replace(SETTINGS, num_cores=1, failures_s=(5.0,)), rate=2.0)
    simulation.run()
    assert max(request.num_moves for request in simulation.finished) == 1
    assert any(request.first_token_s - request.arrived_s > 2.0 for request in simulation.finished)


def test_the_number_of_cores_follows_the_load():
    settings = replace(SETTINGS, num_cores=1, duration_s=60.0, scaling=Scaling(1, 4, 1000, down_idle_s=3.0))
    simulation = simulation_of(settings, workload="unique", rate=5.0)
    results = simulation.run()
    assert 2 <= results.max_num_cores <= 4
    assert results.core_s < 4 * 60.0
    assert results.num_unfinished == 0


def test_cores_that_are_not_needed_go():
    settings = replace(SETTINGS, num_cores=4, duration_s=60.0, scaling=Scaling(1, 4, 1000, down_idle_s=3.0))
    simulation = simulation_of(settings, rate=0.5)
    results = simulation.run()
    assert results.core_s < 0.7 * 4 * 60.0
    assert numbers_of(simulation) == list(range(results.num_finished))


def test_sessions_that_share_are_found_in_the_cache():
    """What policies are compared by: the one that knows prefixes finds more than the one that does not."""
    settings = replace(SETTINGS, num_cores=8)
    hits = {
        policy: simulation_of(settings, policy=policy, rate=12.0).run().summary(20.0)["cache_hit_rate"]
        for policy in ("ours", "round-robin")
    }
    assert hits["ours"] > hits["round-robin"] + 0.1
    assert simulation_of(settings, workload="unique").run().num_cached_tokens == 0
