"""What `fast-inference bench` is made of: a load generator for any OpenAI-compatible server, and what it reports.

    workload.py ─ prompts, loads, arrival times        connection.py ─ HTTP/1.1, bytes with their times
    target.py ─ one server: its requests, its model    answer.py ─ those bytes as tokens, or as a failure
                 └──────▶ load.py ─ one load on one server ◀──────┘
                             metrics.py ─ vLLM's numbers of it
                             measurement.py ─ loads, rounds and servers in turn; medians, ratios
                             report.py, plot.py ─ text and JSON, PNG

`commands.py` puts them together, `own_server.py` starts a server where none is given, `cli_bench.py` has the flags. The
generator shares the machine with the server that it measures. Invariant: while a load runs it only stores bytes and
times; what they say is read when the load is over.

For `scripts/` that look into a step without a server there are `decode_batch.py`, `step_floor.py` and `stopwatch.py`.
"""
