"""Token counts: the prompt once, the answers together."""

from frontend.generation import Answer
from frontend.openai.usage import usage_of


def test_a_prompt_counts_once_for_its_n_answers():
    answers = [Answer(index, num_prompt_tokens=10, num_cached_tokens=4, num_output_tokens=3) for index in range(4)]
    assert usage_of(answers, answers_per_prompt=2) == {
        "prompt_tokens": 20,
        "completion_tokens": 12,
        "total_tokens": 32,
        "prompt_tokens_details": {"cached_tokens": 8},
    }


def test_reasoning_is_counted_for_models_that_think():
    answers = [Answer(index, num_prompt_tokens=1, num_reasoning_tokens=index) for index in range(3)]
    assert usage_of(answers, answers_per_prompt=3)["completion_tokens_details"] == {"reasoning_tokens": 3}
