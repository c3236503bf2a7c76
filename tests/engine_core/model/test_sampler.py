"""The sampler against a plain float64 reference: kept sets, distributions, and independence of the batch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_core.model.sampler import SHORTLIST_SIZE, build_sampling_metadata, draw, sample, uniform_numbers
from ipc.sampling_params import SamplingParams

CPU = torch.device("cpu")
EOS = (2,)
PINNED = [0.6524484863740322, 0.9435642308648544, 0.1842354537308829]


def params(**values) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 100, **values})


def sample_rows(logits: torch.Tensor, rows: list[SamplingParams], positions=None):
    metadata = build_sampling_metadata(rows, EOS, logits.shape[-1], CPU)
    return sample(logits, metadata, np.array(positions or [0] * len(rows), dtype=np.int64))


def reference_probabilities(logits: np.ndarray, item: SamplingParams) -> np.ndarray:
    """vLLM's order, one row, in float64."""
    scores = logits.astype(np.float64) / item.temperature
    weights = np.exp(scores - scores.max())
    if item.min_p > 0:
        weights[weights < item.min_p] = 0
    if 0 < item.top_k < len(weights):
        weights[weights < np.sort(weights)[-item.top_k]] = 0
    if item.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        mass = np.cumsum(weights[order]) / weights.sum()
        num_kept = int((mass < item.top_p).sum()) + 1
        weights[order[num_kept:]] = 0
    return weights / weights.sum()


def observed_counts(logits: torch.Tensor, item: dict, num_draws: int) -> np.ndarray:
    rows = [params(**item, seed=seed) for seed in range(num_draws)]
    tokens = sample_rows(logits.expand(num_draws, -1), rows).token_ids
    return np.bincount(tokens, minlength=logits.shape[-1])


CASES = [
    {"temperature": 1.0},
    {"temperature": 0.5},
    {"temperature": 2.0, "top_k": 5},
    {"temperature": 1.0, "top_p": 0.7},
    {"temperature": 1.3, "min_p": 0.1},
    {"temperature": 0.9, "top_k": 20, "top_p": 0.8, "min_p": 0.02},
]


@pytest.mark.parametrize("case", CASES)
def test_distribution_equals_the_reference(case):
    logits = torch.randn(60, generator=torch.Generator().manual_seed(3)) * 2
    num_draws = 20_000
    counts = observed_counts(logits, case, num_draws)
    expected = reference_probabilities(logits.numpy(), params(**case)) * num_draws
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    chi_square = ((counts - expected)[common] ** 2 / expected[common]).sum()
    degrees = int(common.sum()) - 1
    assert chi_square < degrees + 5 * math.sqrt(2 * degrees)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scale=st.floats(0.01, 20),
    vocab_size=st.sampled_from([3, 200, 257, 1000]),
    temperature=st.floats(0.1, 2),
    top_k=st.sampled_from([0, 1, 7, 256, 300, 5000]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.3, 0.001]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_drawn_tokens_are_in_the_kept_set(seed, scale, vocab_size, temperature, top_k, top_p, min_p):
    logits = torch.randn(vocab_size, generator=torch.Generator().manual_seed(seed)) * scale
    item = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    counts = observed_counts(logits, item, 64)
    # A token on the edge may fall to either side by rounding: compare with a slightly wider reference.
    wider = params(**(item | {"top_p": min(1.0, top_p * (1 + 1e-5)), "min_p": min_p * (1 - 1e-5)}))
    allowed = reference_probabilities(logits.numpy(), wider) > 0
    assert counts[~allowed].sum() == 0


@pytest.mark.parametrize("top_p", [0.5, 0.97])
def test_top_p_beyond_the_shortlist_is_exact(top_p):
    logits = torch.randn(1500, generator=torch.Generator().manual_seed(4)) * 0.1  # nearly flat: most are kept
    kept = reference_probabilities(logits.numpy(), params(top_p=top_p)) > 0
    assert kept.sum() > SHORTLIST_SIZE
    counts = observed_counts(logits, {"top_p": top_p}, 10_000)
    assert counts[~kept].sum() == 0
    assert (counts[kept] > 0).mean() > 0.95


def test_top_k_beyond_the_shortlist_is_exact():
    logits = torch.randn(2000, generator=torch.Generator().manual_seed(4)) * 0.1
    counts = observed_counts(logits, {"top_k": 600}, 10_000)
    assert set(np.flatnonzero(counts)) == set(logits.topk(600).indices.tolist())


def test_a_row_does_not_depend_on_the_rest_of_the_batch():
    logits = torch.randn(6, 700, generator=torch.Generator().manual_seed(5))
    rows = [params(seed=index, **case) for index, case in enumerate(CASES)]
    positions = [3, 1, 4, 1, 5, 9]
    together = sample_rows(logits, rows, positions).token_ids
    alone = [sample_rows(logits[i : i + 1], rows[i : i + 1], positions[i : i + 1]).token_ids[0] for i in range(6)]
    reordered = sample_rows(logits.flip(0), rows[::-1], positions[::-1]).token_ids[::-1]
    assert together == alone == reordered


def test_greedy_rows_among_random_ones_take_the_argmax():
    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(6))
    rows = [params(temperature=0.0), params(seed=1), params(temperature=0.0, top_k=3, top_p=0.1)]
    tokens = sample_rows(logits, rows).token_ids
    assert (tokens[0], tokens[2]) == (int(logits[0].argmax()), int(logits[2].argmax()))


@pytest.mark.parametrize("item", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}, {"temperature": 1.1e-5}])
def test_filters_at_their_limit_leave_the_best_token(item):
    logits = torch.randn(20, 500, generator=torch.Generator().manual_seed(7))
    rows = [params(**item, seed=seed) for seed in range(20)]
    assert sample_rows(logits, rows).token_ids == logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_without_a_finite_maximum_fails_alone(bad):
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(8))
    rows = [params(temperature=0.0), params(seed=1, top_p=0.9), params(seed=2, top_k=5), params(temperature=0.0)]
    whole = sample_rows(logits, rows)
    broken = logits.clone()
    broken[1, 17] = bad
    broken[3, 0] = bad
    sampled = sample_rows(broken, rows)
    assert sampled.failed == [False, True, False, True]
    assert [sampled.token_ids[i] for i in (0, 2)] == [whole.token_ids[i] for i in (0, 2)]


def test_a_row_of_minus_infinity_fails():
    assert sample_rows(torch.full((1, 9), -math.inf), [params(seed=1)]).failed == [True]


def test_min_tokens_forbids_eos_and_stop_ids_until_then():
    logits = torch.zeros(1, 10)
    logits[0, 2], logits[0, 5], logits[0, 7] = 9.0, 8.0, 7.0
    row = [params(temperature=0.0, min_tokens=3, stop_token_ids=(5,))]
    assert [sample_rows(logits, row, [position]).token_ids[0] for position in (0, 2, 3)] == [7, 7, 2]


def test_min_tokens_leaves_eos_alone_where_it_is_ignored():
    logits = torch.zeros(1, 10)
    logits[0, 2] = 9.0
    assert sample_rows(logits, [params(temperature=0.0, min_tokens=3, ignore_eos=True)]).token_ids == [2]


def test_logits_of_the_caller_are_not_changed():
    logits = torch.randn(2, 40)
    before = logits.clone()
    sample_rows(logits, [params(seed=1, min_tokens=2, top_k=3, min_p=0.2), params(temperature=0.0)])
    assert torch.equal(logits, before)


def test_uniform_numbers_are_pinned():
    """A change would change every seeded answer."""
    seeds = np.array([0, 1, 2**63], dtype=np.uint64)
    numbers = uniform_numbers(seeds, np.array([0, 1, 7], dtype=np.int64))
    assert numbers.tolist() == PINNED


def test_uniform_numbers_are_uniform_over_seeds_and_positions():
    seeds, positions = np.meshgrid(np.arange(200, dtype=np.uint64), np.arange(200, dtype=np.int64))
    numbers = uniform_numbers(seeds.ravel(), positions.ravel())
    counts, _ = np.histogram(numbers, bins=50, range=(0, 1))
    assert ((counts - 800) ** 2 / 800).sum() < 49 + 5 * math.sqrt(98)
    assert len(set(numbers.tolist())) == 40_000


@settings(max_examples=80, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 0.25, 1.0]), min_size=1, max_size=600).filter(any),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_draw_inverts_the_cumulative_distribution(weights, uniform):
    drawn = draw(torch.tensor([weights]), torch.tensor([[uniform]], dtype=torch.float64)).item()
    ends = np.cumsum(np.array(weights, dtype=np.float32).astype(np.float64))
    assert weights[drawn] > 0
    assert ends[drawn] >= uniform * ends[-1] * (1 - 1e-12)
    assert drawn == 0 or ends[drawn - 1] <= uniform * ends[-1] * (1 + 1e-12)
