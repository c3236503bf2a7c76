"""`serve --executor ray`: cores as actors of a Ray cluster, found through a named actor, on whichever node has room.

    launcher ─▶ `fleet.py` ─▶ `agent.py` (the one process here that knows Ray; writes cores.json)
                                  │ follows
                 `directory_actor.py` (named, one for each fleet: which cores, where, and who may connect)
                                  │ starts, hears
                 `core_actor.py` (one for each core) ─▶ `core_host.py` ─▶ the engine core, supervised as on one machine

What is decided is in modules that know no Ray: `directory.py`, `scaling.py`, `core_host.py`. Invariant: a request never
passes through Ray. Frontends read `cores.json` and speak to cores themselves, whatever becomes of Ray.
"""
