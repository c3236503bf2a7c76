"""A fleet of engine cores behind frontends as a discrete-event simulation, to choose and to check the routing policy.

    workloads.py ─ sessions: texts (tokens.py) with times     policies.py ─ ours, and others to compare with
                └──────▶ frontend_model.py ─ what a frontend knows; asks its policy ◀──────┘
    step_time.py ─ seconds of a step ─▶ core_model.py ─ a scheduler over counts ◀─ prefix_cache.py, prefill_rule.py
                └──────▶ simulation.py ─ events: arrivals, steps, beats, deaths, scaling ─▶ results.py

`scripts/simulate_fleet.py` is its command, which runs scenarios (`scenario.py`) and prints them (`report.py`);
`fitting.py` measures the step-time model of a device, `validation.py` plays the same requests against a real server.
docs/scaling.md says what came out.
"""
