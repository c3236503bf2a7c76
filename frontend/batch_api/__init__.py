"""`/v1/files` and `/v1/batches`: files and batch jobs of the API, kept in the state dir, served by any frontend.

Frontends keep nothing in memory: all of it is in SQLite (`store.py`) and in files beside it (`state_dir.py`). Jobs are
run by one process under the launcher (`__main__.py`, `runner.py`), which is there while there is something to do.
Next: `serving_files.py`, `serving_batches.py`.
"""
