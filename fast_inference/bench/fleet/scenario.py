"""One line of a comparison: a policy, a number of cores and a load; its settings, its run and what came out.

Made by `scripts/simulate_fleet.py` from flags. Invariant: two scenarios that differ in the policy alone see the same
sessions.
Next: `report.py`.
"""

import time
from dataclasses import dataclass

from fast_inference.bench.fleet.core_model import CoreSettings
from fast_inference.bench.fleet.policies import MAKERS
from fast_inference.bench.fleet.simulation import FleetSettings, Scaling, Simulation
from fast_inference.bench.fleet.step_time import Profile
from fast_inference.bench.fleet.workloads import SHAPES, Workload


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated."""

    policy: str
    workload: str
    num_cores: int
    rate: float
    """Requests per second for each core, in the mean."""
    profile: Profile
    duration_s: float
    warm_up_s: float
    cores_per_frontend: int = 32
    num_failures: int = 0
    """Cores that die, at equal distances."""
    start_s: float = 30.0
    scaling: Scaling | None = None
    max_num_seqs: int = 64
    seed: int = 0

    def run(self) -> "Outcome":
        """Simulate it."""
        began_at = time.perf_counter()
        core = CoreSettings(self.profile.step_time, self.profile.num_blocks, max_num_seqs=self.max_num_seqs)
        spacing_s = self.duration_s / (self.num_failures + 1)
        settings = FleetSettings(
            core,
            self.num_cores,
            max(1, self.num_cores // self.cores_per_frontend),
            self.duration_s,
            self.warm_up_s,
            failures_s=tuple(spacing_s * (number + 1) for number in range(self.num_failures)),
            start_s=self.start_s,
            scaling=self.scaling,
            max_model_len=self.profile.max_model_len,
            seed=self.seed,
        )
        workload = Workload(SHAPES[self.workload], self.num_cores, self.rate * self.num_cores, self.seed)
        results = Simulation(settings, workload.sessions(), MAKERS[self.policy]).run()
        return Outcome(self, results.summary(self.duration_s), time.perf_counter() - began_at)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out."""

    scenario: Scenario
    figures: dict[str, float]
    """`Results.summary`."""
    took_s: float
    """To simulate it."""

    def as_json(self) -> dict[str, float | str]:
        """Settings that differ between scenarios, and the figures."""
        scenario = self.scenario
        return {
            "policy": scenario.policy,
            "workload": scenario.workload,
            "cores": scenario.num_cores,
            "rate_per_core": scenario.rate,
            "profile": scenario.profile.name,
            "failures": scenario.num_failures,
            **self.figures,
            "took_s": round(self.took_s, 2),
        }
