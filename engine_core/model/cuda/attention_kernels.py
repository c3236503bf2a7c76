"""Paged attention in Triton: a tile of queries of one request against its own keys, wherever their blocks lie.

Online softmax (Milakov and Gimelshein 2018) over tiles of keys, as in FlashAttention (Dao et al. 2022). The query heads
that share a KV head are rows of one tile, so each key is read once for all of them. The keys of a tile can be divided
among segments (Flash-Decoding, Dao et al. 2023), which `_merge_segments` puts together: few requests then still fill
the device. Launched by `attention.py`; names are short only where Triton's own examples make them familiar.
Invariant: no slot is read that lies outside the request's first `num_tokens` tokens.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["window", "table_stride"])  # they change from step to step and layer to layer
def attend_to_tile(
    output,  # [num_tokens, num_heads, head_dim]
    partial_output,  # [num_tiles * QUERIES, num_heads, SEGMENTS, DIM_BLOCK] fp32, with several segments
    partial_maximum,  # [num_tiles * QUERIES, num_heads, SEGMENTS] fp32
    partial_sum,
    query,  # [num_tokens, num_heads, head_dim], the last dimension dense
    keys,  # [num_slots, num_kv_heads, head_dim], dense
    values,
    tiles,  # [num_tiles, 2] int32: request, first query of the tile
    query_starts,  # [num_requests + 1] int32
    num_tokens_of,  # [num_requests] int32
    block_tables,  # [num_requests, table_stride] int32
    scale,
    softcap,
    window,
    query_token_stride,
    query_head_stride,
    table_stride,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    """One program: a tile of `QUERIES` queries, one KV head, one segment of the keys."""
    tile, kv_head, segment = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    request = tl.load(tiles + 2 * tile)
    first_query = tl.load(tiles + 2 * tile + 1)
    query_start = tl.load(query_starts + request)
    num_queries = tl.load(query_starts + request + 1) - query_start
    num_tokens = tl.load(num_tokens_of + request)
    num_computed = num_tokens - num_queries

    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM_BLOCK)
    tile_query = row // GROUP
    query_index = first_query + tile_query
    head = kv_head * GROUP + row % GROUP
    is_row = (tile_query < QUERIES) & (query_index < num_queries)
    is_dim = dim < HEAD_DIM
    position = num_computed + query_index
    token = (query_start + query_index).to(tl.int64)
    query_offset = token * query_token_stride + head * query_head_stride
    is_value = is_row[:, None] & is_dim[None, :]
    q = tl.load(query + query_offset[:, None] + dim[None, :], mask=is_value, other=0.0)

    end = tl.minimum(num_computed + first_query + QUERIES, num_tokens)
    begin = 0
    if HAS_WINDOW:
        begin = tl.maximum(num_computed + first_query - window + 1, 0)
    first_block = begin // KEYS
    last_block = (end + KEYS - 1) // KEYS
    if SEGMENTS > 1:
        blocks_per_segment = (last_block - first_block + SEGMENTS - 1) // SEGMENTS
        first_block += segment * blocks_per_segment
        last_block = tl.minimum(first_block + blocks_per_segment, last_block)

    maximum = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    accumulated = tl.zeros([ROWS, DIM_BLOCK], dtype=tl.float32)
    table = block_tables + request.to(tl.int64) * table_stride
    for block in range(first_block, last_block):
        key_index = block * KEYS + tl.arange(0, KEYS)
        is_key = key_index < end
        block_id = tl.load(table + key_index // BLOCK_SIZE, mask=is_key, other=0)
        slot = block_id.to(tl.int64) * BLOCK_SIZE + key_index % BLOCK_SIZE
        cache_offset = (slot * NUM_KV_HEADS + kv_head)[:, None] * HEAD_DIM + dim[None, :]
        is_cached = is_key[:, None] & is_dim[None, :]
        k = tl.load(keys + cache_offset, mask=is_cached, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if HAS_SOFTCAP:
            scores = softcap * (1.0 - 2.0 / (tl.exp2(scores * (2.0 * LOG2_E / softcap)) + 1.0))
        scores *= LOG2_E
        is_visible = (key_index[None, :] <= position[:, None]) & is_key[None, :]
        if HAS_WINDOW:
            is_visible &= key_index[None, :] > position[:, None] - window
        scores = tl.where(is_visible, scores, float("-inf"))

        new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
        finite_maximum = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)  # no key is visible so far
        weights = tl.exp2(scores - finite_maximum[:, None])
        correction = tl.exp2(maximum - finite_maximum)
        total = total * correction + tl.sum(weights, axis=1)
        v = tl.load(values + cache_offset, mask=is_cached, other=0.0)
        accumulated = tl.dot(weights.to(v.dtype), v, acc=accumulated * correction[:, None], input_precision="ieee")
        maximum = new_maximum

    if SEGMENTS > 1:
        slot_row = ((tile * QUERIES + tile_query).to(tl.int64) * (NUM_KV_HEADS * GROUP) + head) * SEGMENTS + segment
        tl.store(partial_maximum + slot_row, maximum, mask=is_row)
        tl.store(partial_sum + slot_row, total, mask=is_row)
        tl.store(partial_output + slot_row[:, None] * DIM_BLOCK + dim[None, :], accumulated, mask=is_row[:, None])
    else:
        attended = accumulated / tl.where(total == 0.0, 1.0, total)[:, None]
        output_offset = (token * (NUM_KV_HEADS * GROUP) + head)[:, None] * HEAD_DIM + dim[None, :]
        tl.store(output + output_offset, attended.to(output.dtype.element_ty), mask=is_value)


@triton.jit
def merge_segments(
    output,  # [num_tokens, num_heads, head_dim]
    partial_output,  # as in `attend_to_tile`
    partial_maximum,
    partial_sum,
    tiles,
    query_starts,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    QUERIES: tl.constexpr,
    SEGMENTS: tl.constexpr,
):
    """One program: one query of one tile, one head."""
    place, head = tl.program_id(0), tl.program_id(1)
    request = tl.load(tiles + 2 * (place // QUERIES))
    query_index = tl.load(tiles + 2 * (place // QUERIES) + 1) + place % QUERIES
    query_start = tl.load(query_starts + request)
    if query_index < tl.load(query_starts + request + 1) - query_start:
        segment = tl.arange(0, SEGMENTS)
        dim = tl.arange(0, DIM_BLOCK)
        slot_row = (place.to(tl.int64) * NUM_HEADS + head) * SEGMENTS + segment
        maximum = tl.load(partial_maximum + slot_row)
        total = tl.load(partial_sum + slot_row)
        is_used = total != 0.0  # NaN is used too, and makes the row NaN
        largest = tl.max(maximum, axis=0)
        factor = tl.exp2(maximum - tl.where(largest == float("-inf"), 0.0, largest))
        is_loaded = is_used[:, None] & (dim < HEAD_DIM)[None, :]
        parts = tl.load(partial_output + slot_row[:, None] * DIM_BLOCK + dim[None, :], mask=is_loaded, other=0.0)
        whole = tl.sum(total * factor, axis=0)
        attended = tl.sum(parts * factor[:, None], axis=0) / tl.where(whole == 0.0, 1.0, whole)
        output_offset = ((query_start + query_index).to(tl.int64) * NUM_HEADS + head) * HEAD_DIM + dim
        tl.store(output + output_offset, attended.to(output.dtype.element_ty), mask=dim < HEAD_DIM)


@triton.jit
def write_to_cache(
    keys,  # [num_slots, row_size], dense
    values,
    key,  # [num_tokens, num_kv_heads, head_dim], the last dimension dense
    value,
    slots,  # [num_tokens] int32; negative ones are left out
    key_token_stride,
    key_head_stride,
    value_token_stride,
    value_head_stride,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
):
    """One program: one token, one KV head."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot = tl.load(slots + token).to(tl.int64)
    if slot >= 0:
        dim = tl.arange(0, DIM_BLOCK)
        is_dim = dim < HEAD_DIM
        cache_offset = (slot * NUM_KV_HEADS + head) * HEAD_DIM + dim
        k = tl.load(key + token * key_token_stride + head * key_head_stride + dim, mask=is_dim)
        v = tl.load(value + token * value_token_stride + head * value_head_stride + dim, mask=is_dim)
        tl.store(keys + cache_offset, k, mask=is_dim)
        tl.store(values + cache_offset, v, mask=is_dim)
