"""The sampling kernel against plain torch on the CPU, on a GPU."""

import pytest
import torch

from engine_core.model.sampling.state import SamplingState
from engine_core.model.sampling.token_picker import TORCH_PICKER, RandomRows
from engine_core.outputs import NewRequestData, RequestKey
from ipc.messages import Task
from ipc.sampling_params import SamplingParams

pytestmark = pytest.mark.gpu

WISHES = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 5},
    {"temperature": 2.0, "min_p": 0.1},
    {"temperature": 1.0, "top_k": 40, "top_p": 0.8, "min_p": 0.02},
    {"temperature": 1.0, "top_p": 1e-6},
    {"temperature": 1.0, "top_k": 1},
]


@pytest.fixture
def picker():
    from engine_core.model.cuda.token_picker import TritonTokenPicker

    return TritonTokenPicker()


def states_of(wishes):
    states = []
    for key, wish in enumerate(wishes):
        params = SamplingParams(max_tokens=9, seed=key, **wish)
        states.append(SamplingState(NewRequestData(RequestKey(key), (1, 2), 2, params, Task.GENERATE, ())))
    return states


def pick_both(picker, logits, wishes):
    states, vocab_size = states_of(wishes), logits.shape[1]
    on_gpu = picker.pick(logits.cuda(), RandomRows.build(states, vocab_size, torch.device("cuda")))
    return on_gpu, TORCH_PICKER.pick(logits.clone(), RandomRows.build(states, vocab_size, torch.device("cpu")))


@pytest.mark.parametrize("vocab_size", [199, 5000, 49152, 128_256])
def test_tokens_equal_those_of_plain_torch(picker, vocab_size):
    torch.manual_seed(vocab_size)
    wishes = WISHES * 8
    ours, expected = pick_both(picker, torch.randn(len(wishes), vocab_size) * 3, wishes)
    assert ours.best == expected.best
    differing = sum(a != b for a, b in zip(ours.token_ids, expected.token_ids, strict=True))
    assert differing <= 1, "a draw on a border between two tokens may round to either"


def test_ties_with_the_last_kept_token_are_kept(picker):
    logits = torch.zeros(64, 300)
    logits[:, :8] = 20.0
    ours, expected = pick_both(picker, logits, [{"temperature": 1.0, "top_k": 3}] * 64)
    assert ours.token_ids == expected.token_ids
    assert set(ours.token_ids) == set(range(8))


def test_forbidden_tokens_are_never_picked(picker):
    logits = torch.randn(64, 1000)
    logits[:, 10:] = -torch.inf
    ours, _ = pick_both(picker, logits, WISHES * 8)
    assert max(ours.token_ids) < 10


def test_rows_without_a_finite_best_say_so(picker):
    logits = torch.randn(3, 1000)
    logits[0, 5], logits[1, :] = torch.nan, -torch.inf
    ours, _ = pick_both(picker, logits, [{"temperature": 1.0, "top_p": 0.5}] * 3)
    assert ours.best[0] != ours.best[0]
    assert ours.best[1] == -torch.inf
    assert ours.best[2] == float(logits[2].max())


def test_greedy_batches_take_the_largest_logit(picker):
    logits = torch.randn(5, 1000)
    assert picker.pick(logits.cuda(), None).token_ids == logits.argmax(dim=-1).tolist()


def test_a_rows_token_does_not_depend_on_the_others(picker):
    logits = torch.randn(len(WISHES), 9000) * 2
    together, _ = pick_both(picker, logits, WISHES)
    for row, state in enumerate(states_of(WISHES)):
        alone = RandomRows.build([state], 9000, torch.device("cuda"))
        assert picker.pick(logits[row : row + 1].cuda(), alone).token_ids == [together.token_ids[row]]
