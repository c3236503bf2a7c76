"""`run-batch --executor ray`: a batch job on many machines, through Ray Data.

`run.py` makes the plan (`plan.py`) and has Ray Data hand its blocks to workers (`worker.py`); each block becomes one
part of the output folder (`parts.py`). Only `cluster.py` and `run.py` import Ray, and only when they are called.
"""
