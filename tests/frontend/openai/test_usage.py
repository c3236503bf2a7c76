"""Token counts: the prompt once, the answers together."""

from frontend.generation import Answer
from frontend.openai.usage import usage_of
from frontend.output_processor import Finish


def test_a_prompt_counts_once_for_its_n_answers():
    finish = Finish("stop", None, num_cached_tokens=4)
    answers = [Answer(index, num_prompt_tokens=10, num_output_tokens=3, finish=finish) for index in range(4)]
    assert usage_of(answers, answers_per_prompt=2) == {
        "prompt_tokens": 20,
        "completion_tokens": 12,
        "total_tokens": 32,
        "prompt_tokens_details": {"cached_tokens": 8},
    }


def test_cached_tokens_are_there_before_the_end():
    usage = usage_of([Answer(0, num_prompt_tokens=5, num_output_tokens=1)], answers_per_prompt=1)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
