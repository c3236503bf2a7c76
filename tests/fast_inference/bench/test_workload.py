"""Prompts and arrivals are drawn from the seed, and datasets are read or refused."""

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_inference.bench.workload import WORDS, Dataset, Load, RandomPrompts, arrival_times
from ipc.errors import ConfigError

LOAD = Load(num_prompts=3, input_len=20, output_len=5, concurrency=1)


def test_a_seed_gives_the_same_prompts_again():
    assert RandomPrompts(7).prompts(LOAD, 3, 0, 1) == RandomPrompts(7).prompts(LOAD, 3, 0, 1)


def test_no_prompt_is_like_another_in_any_round():
    source = RandomPrompts(7)
    prompts = [str(prompt.content) for draw in range(5) for prompt in source.prompts(LOAD, 3, 0, draw)]
    assert len(set(prompts)) == 15


def test_prompts_have_as_many_known_words_as_asked_for():
    for prompt in RandomPrompts(7).prompts(LOAD, 3, 0):
        assert isinstance(prompt.content, str)
        assert len(prompt.content.split()) == 20
        assert set(prompt.content.split()) <= set(WORDS)


def test_a_prefix_is_shared_and_comes_on_top():
    contents = [str(prompt.content).split() for prompt in RandomPrompts(7, prefix_len=30).prompts(LOAD, 3, 0)]
    assert [len(words) for words in contents] == [50] * 3
    assert len({tuple(words[:30]) for words in contents}) == 1
    assert len({tuple(words[30:]) for words in contents}) == 3


@given(st.integers(2, 1000))
def test_token_ids_are_in_the_vocabulary(vocab_size):
    for prompt in RandomPrompts(7, vocab_size=vocab_size).prompts(LOAD, 3, 0):
        assert len(prompt.content) == 20
        assert all(0 < token_id < vocab_size for token_id in prompt.content)


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 4.0])
def test_arrivals_have_their_rate_and_their_burstiness(burstiness):
    load = Load(4000, 1, 1, request_rate=20.0, burstiness=burstiness)
    times = arrival_times(load, 3)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert (len(times), times[0]) == (4000, 0.0)
    assert statistics.fmean(gaps) == pytest.approx(1 / 20, rel=0.1)
    assert statistics.stdev(gaps) / statistics.fmean(gaps) == pytest.approx(burstiness**-0.5, rel=0.1)


@given(st.integers(1, 50), st.floats(0.1, 1000), st.integers(0, 2**32))
def test_arrivals_never_go_back(num_prompts, rate, seed):
    times = arrival_times(Load(num_prompts, 1, 1, request_rate=rate), seed)
    assert len(times) == num_prompts
    assert times == sorted(times)


def test_a_dataset_has_texts_prompts_and_chats(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('"a"\n\n{"prompt": "b", "output_len": 9}\n{"messages": [{"role": "user", "content": "c"}]}\n')
    prompts = Dataset(path).prompts(LOAD, 3, 0)
    assert [prompt.content for prompt in prompts] == ["a", "b", [{"role": "user", "content": "c"}]]
    assert [prompt.output_len for prompt in prompts] == [5, 9, 5]


def test_a_dataset_goes_on_with_each_round_and_gives_every_server_the_same(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(f'"{number}"' for number in range(5)))
    dataset = Dataset(path)
    first, again, second = (dataset.prompts(LOAD, 2, draw) for draw in (0, 0, 1))
    assert [prompt.content for prompt in first] == [prompt.content for prompt in again] == ["0", "1"]
    assert [prompt.content for prompt in second] == ["2", "3"]
    assert not dataset.repeats
    assert [prompt.content for prompt in dataset.prompts(LOAD, 2, 2)] == ["4", "0"]
    assert dataset.repeats


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "has no prompts"),
        ("{", "line 1: no JSON"),
        ('"a"\n7', "line 2: neither a text nor"),
        ('{"text": "a"}', "line 1: neither a text nor"),
        ('{"messages": ["a"]}', "line 1: neither a text nor"),
        ('{"prompt": "a", "output_len": true}', "output_len must be a whole number"),
    ],
)
def test_a_file_that_is_no_dataset_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "d.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        Dataset(path)
    assert "\n" not in error.value.message


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        Dataset(tmp_path / "no.jsonl")
