"""Blocks of a simulated core, against the engine's own pool."""

from hypothesis import given
from hypothesis import strategies as st

from engine_core.kv_cache.block_pool import BlockPool
from fast_inference.bench.fleet.prefix_cache import PrefixCache

NUM_BLOCKS = 12


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.booleans()), max_size=40))
def test_it_finds_what_the_engines_pool_finds(chains):
    """Chains of blocks come one after the other, and up to two are held at a time."""
    cache, pool = PrefixCache(NUM_BLOCKS), BlockPool(NUM_BLOCKS)
    held = []
    for owner, length, keeps_last_open in chains:
        ids = [owner * 100 + index for index in range(length)]
        if len(held) == 2:
            held_ids, num_private, blocks = held.pop(0)
            cache.release(held_ids, num_private)
            pool.free(blocks)
        found = pool.find(ids)
        num_cached = cache.count_cached(ids, length)
        assert num_cached == len(found)
        pool.touch(found)
        cache.touch(ids[:num_cached])
        cache.allocate(length - num_cached)
        new = pool.allocate(length - num_cached)
        held_ids, num_private = ids[:num_cached], length - num_cached
        to_publish = list(zip(ids[num_cached:], new, strict=True))
        for block_id, block in to_publish[:-1] if keeps_last_open else to_publish:
            pool.publish(block, block_id)
            if cache.publish(block_id):
                held_ids.append(block_id)
                num_private -= 1
        held.append((held_ids, num_private, found + new))
        assert cache.num_free_blocks == pool.num_free_blocks
        cache.check()
