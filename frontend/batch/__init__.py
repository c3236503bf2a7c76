"""Batch jobs: a file of requests in, a file of answers out, through the endpoints and without HTTP.

`job.py` puts a job together from `input_file`, `lines`, `ledger`, `line_source`, `executor` and `output_file`.
"""
