"""`fast-inference doctor`: looks for what would keep `serve` with the same settings from starting, or from being fast.

- `finding`: what a check says.
- `hardware`, `memory`, `software`, `model_files`, `surroundings`: the checks, a generator of findings each.
- `port_owner`: who has a port.
- `checkup`: runs all checks, and prints what they have found.

Invariant: nothing is changed but the caches: missing kernels are compiled and a lock is taken, as a start would do.
"""
