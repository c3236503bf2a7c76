"""The engine core: one process that owns the device, the paged KV cache and the scheduler.

    I/O thread                          step loop (main thread; inside another program, a thread of it)
    ──────────                          ───────────────────────
    ROUTER ─▶ decode ─▶ inbox ────────▶ drain ─▶ schedule ─▶ execute ─▶ update
       ▲                                                                   │
       └───────── encode ◀─ outbox ◀──────── one STEP per client ◀─────────┘

Reading order: `process`, `core_server` (what is built, and its life), `step_loop`, `io_thread` and `client_registry`
(the sockets), `core` (`EngineCore.step`), `request`, `scheduler/`, `kv_cache/`, `outputs` (the border to the model),
`model/`, `stop_check`.

Imports go down that list only. The scheduler counts tokens and blocks and never sees a tensor; the model keeps
tensors and never decides.
"""
