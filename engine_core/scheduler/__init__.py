"""Who computes how many tokens in the next step.

One token budget serves prefill and decode alike (after vLLM V1): each step, every request's computed tokens catch up
with its known ones. Decodes come first, then running prefills, then new requests.
- A new request is admitted only if its whole prompt fits; a few later ones may pass a head that does not fit.
- While others run or wait, a prefill gets at most `max_prefill_chunk` tokens in a step.
- When blocks run out, the request with the least computed tokens that is not in this step yet gives up its blocks and
  computes them again later. The one with the most is therefore never preempted, so somebody always gets to its end.

Reading order: `request_queue`, `scheduler`.
"""
