"""The paged KV cache as numbers: which block holds which tokens. No tensor is touched here.

Life of a block: free ─allocate─▶ used by 1…n requests ─last one frees it─▶ free (and, if it is full and hashed, still
found by the prefix cache until it is handed out again).

Reading order: `block`, `block_hash`, `block_pool`, `kv_cache_manager` (the scheduler's only door).
"""
