#!/usr/bin/env python3
"""Simulates fleets of engine cores behind frontends, with our routing policy and with others.

    scripts/simulate_fleet.py --cores 32 --rates 0.5,1,1.5,2,2.5 --plot fleet.png       # four policies over the load
    scripts/simulate_fleet.py --workloads chat,documents,unique --cores 10,100,1000     # over the number of cores
    scripts/simulate_fleet.py --cores 32 --failures 4 --policies ours                   # cores die
    scripts/simulate_fleet.py --cores 8 --scale 4:32 --rates 3                          # their number follows the load
    scripts/simulate_fleet.py --validate                                                # against a real server
    scripts/simulate_fleet.py --fit profile.json --model smollm2-135m-instruct          # measure the step-time model

What is simulated, and what is not, is in docs/scaling.md; the code is `fast_inference/bench/fleet`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.bench.fleet.commands import main

if __name__ == "__main__":
    main("discrete-event simulation of engine cores behind frontends")
