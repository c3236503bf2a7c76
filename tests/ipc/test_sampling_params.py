import math

import pytest

from ipc.errors import InvalidRequestError
from ipc.sampling_params import SamplingParams

VOCAB_SIZE = 100


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("min_tokens", 9),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", math.nan),
        ("top_k", -1),
        ("min_p", 1.5),
        ("top_n_sigma", -0.5),
        ("top_n_sigma", math.inf),
        ("seed", 2**63),
        ("stop_token_ids", (VOCAB_SIZE,)),
        ("stop_token_ids", (-1,)),
        ("stop_token_ids", (1,) * 2000),
    ],
)
def test_a_value_outside_its_interval_names_its_field(field, value):
    params = SamplingParams(**{"max_tokens": 8, field: value})
    with pytest.raises(InvalidRequestError) as caught:
        params.validate(VOCAB_SIZE)
    assert caught.value.param == field


def test_the_ends_of_the_intervals_are_allowed():
    SamplingParams(
        max_tokens=1, min_tokens=1, temperature=2.0, top_p=1.0, top_k=0, min_p=1.0, seed=-(2**63), stop_token_ids=(99,)
    ).validate(VOCAB_SIZE)
