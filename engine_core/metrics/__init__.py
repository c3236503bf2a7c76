"""What the core counts, and what its clients report: the values behind `/metrics`.

`engine_metrics.py` is told by the step loop, `client_reports.py` by the I/O thread; `core_snapshot.py` puts both
together for whoever asks (the control call METRICS), on the I/O thread, so that no step waits for it. The frontend that
asked writes the text (`frontend/metrics/`).
"""
