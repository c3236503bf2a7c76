"""The contract between the engine core and everything that talks to it.

The core binds one ZeroMQ ROUTER; frontends, batch jobs and tools connect DEALERs to it at any time.
A conversation is HELLO / WELCOME, then ADD and ABORT one way and STEP or REJECT the other, with a BEAT
from both sides. Every ADD is answered by exactly one terminal output.

Reading order: `messages` (what is said), `sampling_params`, `errors`, `codec` (how it is written down),
`endpoints` (where), `client` (the async client of a frontend), `sync_client` (the same for tools),
`config` (the settings that all processes read).

This package imports neither torch nor a web framework.
"""
