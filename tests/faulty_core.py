"""The engine core of `python -m engine_core`, in which requests with certain seeds go wrong in the sampler.

    python tests/faulty_core.py --config RUN_DIR/config.json

The model, the batch and the sampler are the real ones: the logits of one request become NaN on their way to the
sampler, and reading the parameters of another raises there.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from engine_core.__main__ import main
from engine_core.model.model_runner import TorchModelRunner

SEED_OF_NAN_LOGITS = 666_001
SEED_OF_AN_EXCEPTION = 666_002


class RaisingParams:
    """Sampling parameters of which `min_p`, which only the sampler reads, cannot be read."""

    def __init__(self, params):
        self._params = params

    def __getattr__(self, name):
        if name == "min_p":
            raise RuntimeError("injected into the sampler")
        return getattr(self._params, name)


class FaultyNetwork:
    """The network of a runner; its logits are NaN in the rows that were named before."""

    def __init__(self, network):
        self._network = network
        self.nan_rows = []

    def __getattr__(self, name):
        return getattr(self._network, name)

    def logits(self, hidden):
        logits = self._network.logits(hidden)
        logits[self.nan_rows] = torch.nan
        return logits


def inject_faults():
    execute = TorchModelRunner.execute
    seeds = {}

    def faulty_execute(runner, step):
        if not isinstance(runner._network, FaultyNetwork):
            runner._network = FaultyNetwork(runner._network)
        seeds.update({new.key: new.sampling_params.seed for new in step.new_requests})
        sampling_keys = [item.key for item in step.scheduled if item.is_last_chunk]
        runner._network.nan_rows = [row for row, key in enumerate(sampling_keys) if seeds[key] == SEED_OF_NAN_LOGITS]
        new_requests = tuple(
            replace(new, sampling_params=RaisingParams(new.sampling_params))
            if new.sampling_params.seed == SEED_OF_AN_EXCEPTION
            else new
            for new in step.new_requests
        )
        return execute(runner, replace(step, new_requests=new_requests))

    TorchModelRunner.execute = faulty_execute


if __name__ == "__main__":
    inject_faults()
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
