"""What `fast-inference status` says: gathered from the run dir and the core, or over HTTP where only a URL is known.

- `processes`: state, uptime, memory and restarts of each process of `status.json`.
- `probes`: how busy the server is, asked of the cores (CALL METRICS) or of `/load` and `/metrics`.
- `report`: both as one record, its JSON and its text.
"""
