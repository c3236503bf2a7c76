"""What a layer does to rows between its matrix products, each as one kernel: norms, rotation, activation.

All arithmetic is in fp32; the residual stream stays fp32 in memory. Used by `decoder/triton_network.py`.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _add_and_normalize(
    normalized,  # [num_rows, SIZE]
    residual,  # [num_rows, SIZE] fp32, changed in place where there is an addend
    addend,  # [num_rows, SIZE]
    addend_norm,  # [SIZE] fp32
    norm,  # [SIZE] fp32
    epsilon,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_ADDEND: tl.constexpr,
    HAS_ADDEND_NORM: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    is_column = column < SIZE
    states = tl.load(residual + row * SIZE + column, mask=is_column, other=0.0)
    if HAS_ADDEND:
        added = tl.load(addend + row * SIZE + column, mask=is_column, other=0.0).to(tl.float32)
        if HAS_ADDEND_NORM:
            added *= tl.rsqrt(tl.sum(added * added, axis=0) / SIZE + epsilon)
            added *= tl.load(addend_norm + column, mask=is_column, other=0.0)
        states += added
        tl.store(residual + row * SIZE + column, states, mask=is_column)
    states *= tl.rsqrt(tl.sum(states * states, axis=0) / SIZE + epsilon)
    states *= tl.load(norm + column, mask=is_column, other=0.0)
    tl.store(normalized + row * SIZE + column, states.to(normalized.dtype.element_ty), mask=is_column)


def add_and_normalize(
    residual: torch.Tensor,
    addend: torch.Tensor | None,
    addend_norm: torch.Tensor | None,
    norm: torch.Tensor,
    epsilon: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Add to the residual stream in place, and give its RMSNorm.

    Args:
        residual: `[num_rows, size]` fp32.
        addend: `[num_rows, size]`, added; nothing where None.
        addend_norm: `[size]` fp32: the addend is normalized with it before it is added; as it is where None.
        norm: `[size]` fp32.
        epsilon: of the norms.
        dtype: of the result.

    Returns:
        `[num_rows, size]`.
    """
    num_rows, size = residual.shape
    normalized = torch.empty((num_rows, size), dtype=dtype, device=residual.device)
    block = triton.next_power_of_2(size)
    _add_and_normalize[(num_rows,)](
        *(normalized, residual, residual if addend is None else addend, norm if addend_norm is None else addend_norm),
        *(norm, epsilon),
        SIZE=size,
        BLOCK=block,
        HAS_ADDEND=addend is not None,
        HAS_ADDEND_NORM=addend_norm is not None,
        num_warps=min(16, max(1, block // 512)),
    )
    return normalized


@triton.jit
def _rotate_and_store(
    query,  # [num_tokens, num_heads, HEAD_DIM]
    keys,  # [num_slots, num_kv_heads, HEAD_DIM]
    values,
    qkv,  # [num_tokens, num_heads + 2 * num_kv_heads, HEAD_DIM]
    positions,  # [num_tokens]
    slots,  # [num_tokens] int32; negative ones are not stored
    cos,  # [max_model_len, HALF] fp32
    sin,
    query_norm,  # [HEAD_DIM] fp32
    key_norm,
    epsilon,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    """One program: `HEADS` heads of one token, be they of queries, keys or values."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    dim = tl.arange(0, DIM_BLOCK)
    is_query = head < NUM_HEADS
    is_key = (head >= NUM_HEADS) & (head < NUM_HEADS + NUM_KV_HEADS)
    is_value = (head >= NUM_HEADS + NUM_KV_HEADS) & (head < NUM_HEADS + 2 * NUM_KV_HEADS)
    is_dim = (dim < HEAD_DIM)[None, :]
    is_state = (is_query | is_key | is_value)[:, None] & is_dim
    source = qkv + (token * (NUM_HEADS + 2 * NUM_KV_HEADS) + head)[:, None] * HEAD_DIM
    # The pair of a rotated dimension is HALF away; those behind both halves are not rotated.
    partner_dim = tl.where(dim < HALF, dim + HALF, tl.where(dim < 2 * HALF, dim - HALF, dim))
    states = tl.load(source + dim[None, :], mask=is_state, other=0.0)
    wide = states.to(tl.float32)
    partner = tl.load(source + partner_dim[None, :], mask=is_state, other=0.0).to(tl.float32)
    if HAS_NORM:
        is_loaded = is_state & (is_query | is_key)[:, None]
        norm = tl.where(is_query[:, None], query_norm + dim[None, :], key_norm + dim[None, :])
        partner_norm = tl.where(is_query[:, None], query_norm + partner_dim[None, :], key_norm + partner_dim[None, :])
        factor = tl.rsqrt(tl.sum(wide * wide, axis=1) / HEAD_DIM + epsilon)[:, None]
        wide *= factor * tl.load(norm, mask=is_loaded, other=0.0)
        partner *= factor * tl.load(partner_norm, mask=is_loaded, other=0.0)
    position = tl.load(positions + token).to(tl.int64)
    angle = tl.where(dim < HALF, dim, dim - HALF)
    is_rotated = dim < 2 * HALF
    cosine = tl.load(cos + position * HALF + angle, mask=is_rotated, other=1.0)
    sine = tl.load(sin + position * HALF + angle, mask=is_rotated, other=0.0)
    rotated = wide * cosine[None, :] + partner * tl.where(dim < HALF, -sine, sine)[None, :]

    target = query + (token * NUM_HEADS + head)[:, None] * HEAD_DIM + dim[None, :]
    tl.store(target, rotated.to(query.dtype.element_ty), mask=is_query[:, None] & is_dim)
    slot = tl.load(slots + token).to(tl.int64)
    if slot >= 0:
        target = keys + (slot * NUM_KV_HEADS + head - NUM_HEADS)[:, None] * HEAD_DIM + dim[None, :]
        tl.store(target, rotated.to(keys.dtype.element_ty), mask=is_key[:, None] & is_dim)
        target = values + (slot * NUM_KV_HEADS + head - NUM_HEADS - NUM_KV_HEADS)[:, None] * HEAD_DIM + dim[None, :]
        tl.store(target, states, mask=is_value[:, None] & is_dim)


def rotate_and_store(
    qkv: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor],
    head_norms: tuple[torch.Tensor, torch.Tensor] | None,
    epsilon: float,
) -> torch.Tensor:
    """Normalize and rotate the heads of queries and keys, and write keys and values to the cache.

    Args:
        qkv: `[num_tokens, num_heads + 2 * num_kv_heads, head_dim]`, dense.
        keys: the layer's cache, `[num_slots, num_kv_heads, head_dim]`.
        values: the same shape as `keys`.
        positions: `[num_tokens]`.
        slots: `[num_tokens]` int32; tokens with a negative one are not written.
        tables: cosines and sines `[max_model_len, rotary_dim / 2]` fp32.
        head_norms: weights `[head_dim]` fp32 of the norms of each query and key head; none where None.
        epsilon: of the norms.

    Returns:
        the queries, `[num_tokens, num_heads, head_dim]`.
    """
    num_tokens, num_all_heads, head_dim = qkv.shape
    num_kv_heads = keys.shape[1]
    num_heads = num_all_heads - 2 * num_kv_heads
    query = torch.empty((num_tokens, num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    cos, sin = tables
    query_norm, key_norm = head_norms or (cos, cos)
    dim_block = triton.next_power_of_2(head_dim)
    heads = min(triton.next_power_of_2(num_all_heads), max(1, 1024 // dim_block))
    _rotate_and_store[(num_tokens, triton.cdiv(num_all_heads, heads))](
        *(query, keys, values, qkv, positions, slots, cos, sin, query_norm, key_norm, epsilon),
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HEAD_DIM=head_dim,
        HALF=cos.shape[1],
        HEADS=heads,
        DIM_BLOCK=dim_block,
        HAS_NORM=head_norms is not None,
        num_warps=4,
    )
    return query


@triton.jit
def _activate(activated, gate_up, SIZE: tl.constexpr, BLOCK: tl.constexpr, HAS_GELU: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_column = column < SIZE
    gate = tl.load(gate_up + row * (2 * SIZE) + column, mask=is_column, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * (2 * SIZE) + SIZE + column, mask=is_column, other=0.0).to(tl.float32)
    if HAS_GELU:  # 0.5 * (1 + tanh(x)) is sigmoid(2 * x)
        gate *= tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    else:
        gate *= tl.sigmoid(gate)
    tl.store(activated + row * SIZE + column, (gate * up).to(activated.dtype.element_ty), mask=is_column)


def activate(gate_up: torch.Tensor, *, has_gelu: bool) -> torch.Tensor:
    """`[num_rows, size]` of `[num_rows, 2 * size]`: SiLU, or GELU by its tanh formula, of the gate, times up."""
    num_rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    activated = torch.empty((num_rows, size), dtype=gate_up.dtype, device=gate_up.device)
    block = min(1024, triton.next_power_of_2(size))
    _activate[(num_rows, triton.cdiv(size, block))](activated, gate_up, SIZE=size, BLOCK=block, HAS_GELU=has_gelu)
    return activated
