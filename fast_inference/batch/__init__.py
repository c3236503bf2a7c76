"""`fast-inference run-batch`: a batch job on an engine core of its own, or beside the frontends of a running server."""
