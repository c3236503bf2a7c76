"""Picks a token per row in one kernel: argmax, or a draw after temperature, min_p, top_k and top_p.

What a row keeps is told by its distance from the best token, (best - logit) / temperature, whose bits as an integer are
in the order of the numbers: top_k and top_p search the greatest distance kept, two bits in each pass over the row,
which lies in the L2 cache. Launched by `token_picker.py`. Invariant: a row's token depends on that row alone; ties with
the last kept token are kept, as in `sampling/truncation.py`.
"""

import triton
import triton.language as tl

FARTHEST = tl.constexpr(0x7FFFFFFF)


@triton.jit
def _distances(logits, column, vocab_size, best, temperature):
    """Distances of a block of tokens; infinite beyond the vocabulary."""
    values = tl.load(logits + column, mask=column < vocab_size, other=float("-inf"))
    return tl.abs((best - values) / temperature)


@triton.jit
def _kept_within(logits, vocab_size, best, temperature, farthest, wanted, IS_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """Least distance within which as many tokens are (or, of the mass within `farthest`, as large a share) as wanted.

    Distances are meant as bits; those beyond `farthest` do not count.
    """
    total = wanted
    if IS_MASS:
        lanes = tl.zeros([BLOCK], dtype=tl.float32)
        for first in range(0, vocab_size, BLOCK):
            distance = _distances(logits, first + tl.arange(0, BLOCK), vocab_size, best, temperature)
            lanes += tl.where(distance.to(tl.int32, bitcast=True) <= farthest, tl.exp(-distance), 0.0)
        total = wanted * tl.sum(lanes.to(tl.float64), axis=0)
    found = farthest * 0
    for step in range(16):
        shift = 30 - 2 * step
        size = (found * 0 + 1).to(tl.int64) << shift
        first_end = tl.minimum(found.to(tl.int64) + size - 1, FARTHEST).to(tl.int32)
        second_end = tl.minimum(found.to(tl.int64) + 2 * size - 1, FARTHEST).to(tl.int32)
        third_end = tl.minimum(found.to(tl.int64) + 3 * size - 1, FARTHEST).to(tl.int32)
        first_lanes = tl.zeros([BLOCK], dtype=tl.float32)
        second_lanes = tl.zeros([BLOCK], dtype=tl.float32)
        third_lanes = tl.zeros([BLOCK], dtype=tl.float32)
        for first in range(0, vocab_size, BLOCK):
            column = first + tl.arange(0, BLOCK)
            distance = _distances(logits, column, vocab_size, best, temperature)
            bits = distance.to(tl.int32, bitcast=True)
            if IS_MASS:
                share = tl.where(bits <= farthest, tl.exp(-distance), 0.0)
            else:
                share = tl.where(column < vocab_size, 1.0, 0.0)
            first_lanes += tl.where(bits <= first_end, share, 0.0)
            second_lanes += tl.where(bits <= second_end, share, 0.0)
            third_lanes += tl.where(bits <= third_end, share, 0.0)
        is_beyond_first = tl.sum(first_lanes.to(tl.float64), axis=0) < total
        is_beyond_second = tl.sum(second_lanes.to(tl.float64), axis=0) < total
        is_beyond_third = tl.sum(third_lanes.to(tl.float64), axis=0) < total
        digit = is_beyond_first.to(tl.int64) + is_beyond_second.to(tl.int64) + is_beyond_third.to(tl.int64)
        found = tl.minimum(found.to(tl.int64) + digit * size, FARTHEST).to(tl.int32)
    return tl.minimum(found, farthest)


@triton.jit(do_not_specialize=["num_rows"])
def pick_token(
    picked_tokens,  # [2, num_rows] fp64: token ids; the largest logits, NaN where there is any
    logits,  # [num_rows, vocab_size] fp32, dense
    temperatures,  # [num_rows] fp32; 0 where the best token is taken
    uniforms,  # [num_rows] fp64 in [0, 1)
    min_p_distances,  # [num_rows] fp32; infinite where it is off
    top_ks,  # [num_rows] int32; vocab_size where it is off
    top_ps,  # [num_rows] fp64; 1 where it is off
    num_rows,
    vocab_size,
    BLOCK: tl.constexpr,
):
    """One program: one row."""
    row = tl.program_id(0)
    logits += row.to(tl.int64) * vocab_size
    lane_best = tl.full([BLOCK], float("-inf"), dtype=tl.float32)
    lane_column = tl.zeros([BLOCK], dtype=tl.int32)
    lane_nan = tl.zeros([BLOCK], dtype=tl.int32)
    for first in range(0, vocab_size, BLOCK):
        column = first + tl.arange(0, BLOCK)
        values = tl.load(logits + column, mask=column < vocab_size, other=float("-inf"))
        is_better = values > lane_best
        lane_best = tl.where(is_better, values, lane_best)
        lane_column = tl.where(is_better, column, lane_column)
        lane_nan = tl.where(values != values, 1, lane_nan)
    best = tl.max(lane_best, axis=0)
    picked = tl.min(tl.where(lane_best == best, lane_column, vocab_size - 1), axis=0)
    has_nan = tl.max(lane_nan, axis=0) > 0
    tl.store(picked_tokens + num_rows + row, tl.where(has_nan, float("nan"), best).to(tl.float64))
    temperature = tl.load(temperatures + row)
    if (temperature > 0.0) & (best > float("-inf")) & (best < float("inf")) & (has_nan == 0):
        farthest = tl.load(min_p_distances + row).to(tl.int32, bitcast=True)
        top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
        if top_k < vocab_size:
            within = _kept_within(logits, vocab_size, best, temperature, farthest, top_k.to(tl.float64), False, BLOCK)
            farthest = tl.minimum(farthest, within)
        if top_p < 1.0:
            farthest = _kept_within(logits, vocab_size, best, temperature, farthest, top_p, True, BLOCK)
        total = top_p * 0.0
        for first in range(0, vocab_size, BLOCK):
            distance = _distances(logits, first + tl.arange(0, BLOCK), vocab_size, best, temperature)
            weights = tl.where(distance.to(tl.int32, bitcast=True) <= farthest, tl.exp(-distance), 0.0)
            total += tl.sum(weights.to(tl.float64), axis=0)
        target = tl.load(uniforms + row) * total
        before = top_p * 0.0
        is_found = row < 0
        for first in range(0, vocab_size, BLOCK):
            column = first + tl.arange(0, BLOCK)
            distance = _distances(logits, column, vocab_size, best, temperature)
            weights = tl.where(distance.to(tl.int32, bitcast=True) <= farthest, tl.exp(-distance), 0.0).to(tl.float64)
            after = before + tl.sum(weights, axis=0)
            if (is_found == 0) & (after > before):
                # Rounding may leave the target behind the last token: then it is the last that adds something.
                ends = before + tl.cumsum(weights, axis=0)
                inside = tl.min(tl.where((ends > target) & (weights > 0.0), column, vocab_size), axis=0)
                last = tl.max(tl.where(weights > 0.0, column, 0), axis=0)
                is_found = inside < vocab_size
                picked = tl.where(is_found, inside, last)
            before = after
    tl.store(picked_tokens + row, picked.to(tl.float64))
