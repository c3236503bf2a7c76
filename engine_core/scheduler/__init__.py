"""Who computes how many tokens in the next step.

One token budget serves prefill and decode alike (after vLLM V1): each step, every request's computed tokens catch up
with its known ones. The order within a step: places change hands, decodes, running prefills, new requests; online
before batch.

- **Whose turn.** Classes → flows → requests. Between flows the smallest virtual token counter is next, within a flow
  the policy (`fcfs`, `priority`, `memory_aware`), with ageing so that nobody waits without bound.
- **Batch** runs where online leaves room, and never takes a place from online. What it is owed while online wants
  everything is a debt (`BatchShare`): while there is one, batch is admitted before online up to the seats that the
  debt is worth. Without one it is left out of steps that compute online prompts, and its own steps are short while
  online requests come (`BatchTurns`), so that a job hardly shows in the time to an online request's first token.
- **Places** (a seat and blocks) change hands where the next request has none: online takes those of batch beyond what
  batch keeps, a flow with few seats those of a flow with many, in each case at most what it needs, at once, and never
  so that the other could take it back (`Places`). The blocks that were given up stay in the prefix cache.
- **Admission** needs blocks for all known tokens. At most `LOOK_AHEAD` requests are tried, so later ones may pass a
  head that does not fit, but only `MAX_TIMES_SKIPPED` times. One whose next block a running request is about to compute
  waits for that instead.
- **Prefill chunks** are capped while others run or wait, and all of them together beside decodes (`PrefillBudget`), so
  that a step takes no longer than the target. Where the model must see a prompt whole, it is one chunk, and whoever is
  admitted is computed in that step (`PrefillChunks`).
- **Drafts** (`drafts`) come last, for decodes, from what the step and the cache have left.
- **Preemption** when blocks run out, before anything is scheduled: batch first (and for a batch request only batch),
  then the lowest priority, then who was not preempted twice yet, then the least computed tokens. In that step nobody
  is admitted, and the victim comes back only with room to grow.

Why every request ends: a preempted request keeps its tokens. A request is admitted with blocks for all it has, so it
cannot want a block before it has given one more token; and preemption for want of blocks happens only because a decode
wants one. So between two of those the core as a whole gives tokens, of which there is a last one. Preemptions between
flows are bounded (`MAX_PREEMPTIONS`), and each of a batch request by an online one admits that one for good.
Batch does not starve beside endless online requests either: its debt grows until it is overdue, and then free places
go to online only after the next batch request has one.

Reading order: `admission_order`, `request_queue`, `virtual_counters`, `batch_share`, `fair_queue`, `places`,
`prefill_budget`, `step_builder`, `prefill_chunks`, `batch_turns`, `drafts`, `scheduler`.
"""
