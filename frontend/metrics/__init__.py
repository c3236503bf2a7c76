"""`GET /metrics`: what this process counts, and the text that a scrape gets.

`frontend_metrics.py` counts and reports to a core, which adds up all processes; `serving.py` answers a scrape with what
each core knows and what only the launcher's files tell (`server_status.py`, `batch_jobs.py`), as `exposition.py`
writes it. Every name is in `ipc/metric_families.py`.
"""
