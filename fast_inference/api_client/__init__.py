"""A small client of OpenAI-compatible servers for the command line: `chat`, `complete` and `status`.

- `connection`: one request at a time over HTTP or HTTPS, blocking, with answers as they stream.
- `servers`: which server is meant: a URL, a run dir, or the one that runs on this machine.
- `answer`: what a streamed answer has said so far, and how fast it came.
- `sampling`: the sampling fields that people can set, as flags and in `/set`.

It is made of `http.client`: `fast_inference/bench/connection.py` keeps whole bodies with the times of their pieces,
which is what a load generator needs, but neither gives an answer while it comes nor speaks TLS.
"""
