"""What `frontend/engine_router.py` decides with: pure tables, without a clock, a socket or a random number.

- `prefix_path`: a prompt as the hashes of its beginnings.
- `prefix_memory`: which core was sent which beginning, and which beginnings are common to much of the traffic.
- `rendezvous`: a key's core where nothing is remembered, on which all frontends agree.
- `divergence`: where prompts with a common beginning part, which tells their chats apart.
- `sent_prefixes`: what of the prompts just sent a core need not compute.
- `core_load`: how loaded a core is, as one number.

Reading order: as above, then `frontend/engine_router.py`.
"""
