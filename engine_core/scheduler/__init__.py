"""Who computes how many tokens in the next step.

One token budget serves prefill and decode alike (after vLLM V1): each step, every request's computed tokens catch up
with its known ones. The order within a step: decodes, running prefills, new requests; online before batch.

- **Whose turn.** Classes → flows → requests. Between classes and between flows the smallest virtual token counter is
  next, within a flow the policy (`fcfs`, `priority`, `memory_aware`), with ageing so that nobody waits without bound.
- **Batch** is left out of a step that computes online prompts, unless it has had less than its share; so a job hardly
  shows in the time to an online request's first token.
- **Seats.** Where the next request has no place because another flow holds more seats than its share, that flow's
  request with the least computed tokens gives up its seat: at most one in a step, none that was preempted twice, and
  never so that the other could take it back (`Share.can_take_seat_from`). Its blocks stay in the prefix cache.
- **Admission** needs blocks for all known tokens. At most `LOOK_AHEAD` requests are tried, so later ones may pass a
  head that does not fit, but only `MAX_TIMES_SKIPPED` times. One whose next block a running request is about to compute
  waits for that instead.
- **Prefill chunks** are capped while others run or wait, and all of them together beside decodes (`PrefillBudget`), so
  that a step takes no longer than the target.
- **Preemption** when blocks run out, before anything is scheduled: batch first, then who was not preempted twice yet,
  then the least computed tokens. In that step nobody is admitted, and the victim comes back only with room to grow.

Why every request ends: a preempted request keeps its tokens. A request is admitted with blocks for all it has, so it
cannot want a block before it has given one more token; and preemption happens only because a decode wants one. So
between two preemptions of a request for want of blocks the core as a whole gives tokens, of which there is a last one.

Reading order: `admission_order`, `request_queue`, `virtual_counters`, `fair_queue`, `prefill_budget`, `step_builder`,
`scheduler`.
"""
