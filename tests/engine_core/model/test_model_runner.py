"""The whole runner against transformers' own `generate`, under every shape that a scheduler can give a step."""

import logging

import pytest
import torch
from transformers import AutoModelForCausalLM

import engine_core.model.sampling.batch_sampler as batch_sampler_module
from engine_core.model.sampling.prompt_logprobs import PromptLogprobs
from engine_core.outputs import ModelInfo, RequestKey, ScheduledRequest, SchedulerOutput
from ipc.messages import Task
from ipc.sampling_params import SamplingParams


def prompt_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 199, (length,), generator=generator).tolist()


@pytest.mark.parametrize("length", [1, 5, 16, 33, 100])
def test_greedy_tokens_equal_generate(driver_and_dir, generate, length):
    driver, folder = driver_and_dir
    driver.add(1, prompt_of(length))
    driver.step(k1=length)
    driver.decode(1, 19)
    assert driver.tokens[1] == generate(folder, prompt_of(length), 20)


@pytest.mark.parametrize("chunk", [1, 7, 16, 40])
def test_chunked_prefill_changes_nothing(driver_and_dir, generate, chunk):
    driver, folder = driver_and_dir
    prompt = prompt_of(70, seed=chunk)
    driver.add(1, prompt)
    while driver.num_computed[1] < 70:
        driver.step(k1=min(chunk, 70 - driver.num_computed[1]))
    driver.decode(1, 9)
    assert driver.tokens[1] == generate(folder, prompt, 10)


def test_mixed_batch_of_decodes_and_prefill_chunks(driver_and_dir, generate):
    driver, folder = driver_and_dir
    prompts = {1: prompt_of(3, 1), 2: prompt_of(45, 2), 3: prompt_of(90, 3), 4: prompt_of(20, 4)}
    for key, prompt in prompts.items():
        driver.add(key, prompt)
    driver.step(k1=3, k2=45)
    driver.step(k1=1, k2=1, k3=50, k4=20)
    driver.step(k1=1, k2=1, k4=1, k3=40)
    for _ in range(10):
        driver.step(k4=1, k3=1, k2=1, k1=1)
    for key, prompt in prompts.items():
        assert driver.tokens[key] == generate(folder, prompt, len(driver.tokens[key]) - len(prompt))


def test_a_second_request_reads_the_blocks_of_a_shared_prefix(llama, llama_dir, generate):
    prefix = prompt_of(32)
    llama.add(1, [*prefix, 7, 8])
    llama.step(k1=34)
    llama.add(2, [*prefix, 9, 10, 11], cached_blocks=llama.blocks[1][:2])
    llama.step(k1=1, k2=3)
    llama.decode(2, 7)
    assert llama.tokens[2] == generate(llama_dir, [*prefix, 9, 10, 11], 8)


def test_a_preempted_request_continues_as_it_would_have(llama, llama_dir, generate):
    llama.add(1, prompt_of(20))
    llama.step(k1=20)
    llama.decode(1, 4)
    tokens = llama.tokens[1]
    llama.drop(1)
    llama.add(1, tokens, num_prompt_tokens=20)
    llama.step(k1=len(tokens))
    llama.decode(1, 4)
    assert llama.tokens[1] == generate(llama_dir, prompt_of(20), 10)


def record_logits(monkeypatch):
    """All logits that are sampled from, as they come."""
    seen = []
    sample = batch_sampler_module.sample
    monkeypatch.setattr(
        batch_sampler_module, "sample", lambda logits, *rest: seen.append(logits) or sample(logits, *rest)
    )
    return seen


def test_last_logits_equal_those_of_the_model_itself(llama, llama_dir, monkeypatch):
    seen = record_logits(monkeypatch)
    llama.add(1, prompt_of(60))
    llama.add(2, prompt_of(5))
    llama.step(k1=41, k2=5)
    llama.step(k2=1, k1=19)
    network = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float32)
    expected = network(torch.tensor([prompt_of(60)])).logits[0, -1]
    assert (seen[-1][1] - expected).abs().max() < 1e-4


def test_logits_are_computed_only_for_the_rows_that_sample(llama, monkeypatch):
    seen = record_logits(monkeypatch)
    llama.add(1, prompt_of(40))
    llama.add(2, prompt_of(9))
    llama.step(k1=30)
    llama.step(k1=9, k2=9)
    assert [logits.shape[0] for logits in seen] == [1]


@pytest.mark.parametrize("chunks", [(50,), (20, 30), (1, 16, 33)])
def test_embedding_is_the_normalized_mean_of_the_hidden_states(llama, llama_dir, chunks):
    llama.add(1, prompt_of(50), task=Task.EMBED)
    outputs = [llama.step(k1=chunk) for chunk in chunks]
    assert all(not output.embeddings for output in outputs[:-1])
    network = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float32)
    mean = network.model(torch.tensor([prompt_of(50)])).last_hidden_state[0].mean(dim=0)
    expected = mean / mean.norm()
    assert torch.allclose(torch.tensor(outputs[-1].embeddings[RequestKey(1)]), expected, atol=1e-5)
    assert not outputs[-1].sampled_token_ids


@pytest.mark.parametrize(("pooling", "position"), [("last", -1), ("cls", 0)])
@pytest.mark.parametrize("chunks", [(50,), (1, 16, 33)])
def test_other_poolings_take_one_position(drive_tiny, llama_dir, pooling, position, chunks):
    driver = drive_tiny(llama_dir, pooling=pooling)
    driver.add(1, prompt_of(50), task=Task.EMBED)
    for chunk in chunks:
        output = driver.step(k1=chunk)
    network = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float32)
    state = network.model(torch.tensor([prompt_of(50)])).last_hidden_state[0, position]
    assert torch.allclose(torch.tensor(output.embeddings[RequestKey(1)]), state / state.norm(), atol=1e-5)
    assert driver.runner.info.pooling == pooling


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_embeddings_of_mixed_lengths_equal_those_made_one_by_one(drive_tiny, llama_dir, pooling):
    lengths = {1: 50, 2: 1, 3: 17, 4: 33}
    driver = drive_tiny(llama_dir, pooling=pooling)
    for key, length in lengths.items():
        driver.add(key, prompt_of(length, key), task=Task.EMBED)
        driver.add(key + 10, prompt_of(length, key), task=Task.EMBED)
    first = driver.step(k1=20, k2=1, k3=17, k4=2).embeddings
    together = first | driver.step(k4=31, k1=30).embeddings
    for key, length in lengths.items():
        alone = driver.step(**{f"k{key + 10}": length}).embeddings[RequestKey(key + 10)]
        assert torch.allclose(torch.tensor(together[RequestKey(key)]), torch.tensor(alone), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_an_embedding_that_is_computed_again_after_a_preemption_forgets_its_first_chunks(
    drive_tiny, llama_dir, pooling
):
    driver = drive_tiny(llama_dir, pooling=pooling)
    driver.add(1, prompt_of(50), task=Task.EMBED)
    driver.add(2, prompt_of(50), task=Task.EMBED)
    driver.step(k1=33)
    driver.drop(1)
    driver.add(1, prompt_of(50), task=Task.EMBED)
    driver.step(k1=7)
    again, once = driver.step(k1=43, k2=50).embeddings.values()
    assert torch.allclose(torch.tensor(again), torch.tensor(once), atol=1e-5)


def test_an_embedding_over_a_cached_prefix_fails_instead_of_being_wrong(llama):
    llama.add(1, prompt_of(20), task=Task.EMBED)
    llama.step(k1=20)
    llama.add(2, prompt_of(20), task=Task.EMBED, cached_blocks=llama.blocks[1][:1])
    assert llama.step(k2=4).failures == {2: "incomplete_embedding"}


def test_nan_in_one_requests_cache_fails_only_that_request(llama, llama_dir, generate):
    llama.add(1, prompt_of(20, 1))
    llama.add(2, prompt_of(9, 2))
    llama.step(k1=20, k2=9)
    first = llama.blocks[1][0] * 16
    llama.runner._kv_tensors.keys[0][first : first + 16] = torch.nan
    output = llama.step(k1=1, k2=1)
    llama.runner._kv_tensors.keys[0][first : first + 16] = 0.0
    assert output.failures == {1: "nan_logits"}
    llama.drop(1)
    llama.decode(2, 5)
    assert llama.tokens[2] == generate(llama_dir, prompt_of(9, 2), 7)


def test_a_seeded_request_samples_the_same_alone_chunked_and_in_a_batch(llama):
    params = SamplingParams(max_tokens=50, temperature=0.8, top_p=0.95, seed=5, ignore_eos=True)
    llama.add(1, prompt_of(30), params)
    llama.step(k1=30)
    llama.decode(1, 11)
    llama.add(2, prompt_of(30), params)
    llama.add(3, prompt_of(12, 9), SamplingParams(max_tokens=50, seed=99))
    llama.step(k2=13, k3=12)
    llama.step(k3=1, k2=17)
    for _ in range(11):
        llama.step(k3=1, k2=1)
    assert llama.tokens[2] == llama.tokens[1]


def test_min_tokens_counts_output_tokens(llama):
    llama.add(1, prompt_of(6))
    llama.step(k1=6)
    llama.decode(1, 5)
    greedy = llama.tokens[1][6:]
    stop = greedy[0]
    llama.add(2, prompt_of(6), SamplingParams(max_tokens=9, min_tokens=1, temperature=0.0, stop_token_ids=(stop,)))
    llama.step(k2=6)
    assert llama.tokens[2][6] != stop


def prompt_logprobs_of(driver, prompt, chunks, **neighbours):
    """What the last of the chunks gives; the neighbours are scheduled beside each."""
    driver.add(1, prompt, SamplingParams(max_tokens=9, num_prompt_logprobs=2))
    outputs = [driver.step(**neighbours, k1=chunk) for chunk in chunks]
    assert all(not output.prompt_logprobs for output in outputs[:-1])
    return outputs[-1].prompt_logprobs[RequestKey(1)]


@pytest.mark.parametrize("chunks", [(50,), (20, 30), (1, 16, 33), (49, 1)])
def test_prompt_logprobs_equal_those_of_the_model_itself(llama, llama_dir, chunks):
    llama.add(2, prompt_of(9))
    llama.step(k2=9)
    logprobs = prompt_logprobs_of(llama, prompt_of(50), chunks, k2=1)
    network = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float32)
    with torch.inference_mode():
        expected = network(torch.tensor([prompt_of(50)])).logits[0, :-1].log_softmax(dim=-1)
    token_ids = torch.tensor(logprobs.token_ids).view(49, 3)
    assert token_ids[:, 0].tolist() == prompt_of(50)[1:]
    assert torch.allclose(torch.tensor(logprobs.values).view(49, 3), expected.gather(-1, token_ids), atol=1e-4)
    assert torch.equal(token_ids[:, 1:], expected.topk(2).indices)


def test_prompt_logprobs_over_a_cached_prefix_fail_instead_of_being_wrong(llama):
    llama.add(1, prompt_of(20))
    llama.step(k1=20)
    params = SamplingParams(max_tokens=9, num_prompt_logprobs=0)
    llama.add(2, prompt_of(20), params, cached_blocks=llama.blocks[1][:1])
    output = llama.step(k1=1, k2=4)
    assert output.failures == {2: "incomplete_prompt_logprobs"}
    assert list(output.sampled_token_ids) == [1]


def test_prompt_logprobs_are_given_once(llama):
    params = SamplingParams(max_tokens=9, num_prompt_logprobs=0)
    assert prompt_logprobs_of(llama, prompt_of(20), (20,)) is not None
    assert not llama.step(k1=1).prompt_logprobs
    tokens = llama.tokens[1]
    llama.drop(1)
    llama.add(1, tokens, params, num_prompt_tokens=20)
    assert not llama.step(k1=len(tokens)).prompt_logprobs


def test_an_exception_in_prompt_logprobs_fails_that_request_alone(llama, monkeypatch, caplog):
    llama.add(1, prompt_of(20), SamplingParams(max_tokens=9, num_prompt_logprobs=0))
    llama.add(2, prompt_of(9))
    monkeypatch.setattr(PromptLogprobs, "add", lambda *arguments: 1 / 0)
    with caplog.at_level(logging.CRITICAL):
        output = llama.step(k1=20, k2=9)
    assert output.failures == {1: "sampler_error"}
    assert list(output.sampled_token_ids) == [2]


def test_penalties_and_a_grammar_continue_after_a_preemption_in_chunks(llama, grammar):
    penalized = SamplingParams(max_tokens=50, seed=3, frequency_penalty=0.5, repetition_penalty=1.3, ignore_eos=True)
    options = {1: {"params": penalized}, 2: {"params": SamplingParams(max_tokens=50), "grammar": grammar("[a-z]{20}")}}
    for key, option in options.items():
        llama.add(key, prompt_of(20), **option)
    llama.step(k1=20, k2=20)
    for _ in range(9):
        llama.step(k1=1, k2=1)
    expected = {key: llama.tokens[key] for key in options}
    for key, option in options.items():
        llama.drop(key)
        llama.add(key, expected[key][:25], num_prompt_tokens=20, **option)
    llama.step(k1=13, k2=25)
    llama.step(k2=1, k1=12)
    for _ in range(3):
        llama.step(k1=1, k2=1)
    assert llama.tokens[1] == expected[1][: len(llama.tokens[1])]
    assert llama.tokens[2] == expected[2][: len(llama.tokens[2])]
    assert bytes(expected[2][20:]).islower()


def test_a_grammar_that_is_complete_is_told(llama, grammar):
    llama.add(1, prompt_of(20), grammar=grammar("[a-z]{2}"))
    assert [llama.step(k1=20).completed_grammars, llama.step(k1=1).completed_grammars] == [set(), {1}]


def test_a_grammar_goes_on_in_the_step_after_one_that_raised(llama, grammar, monkeypatch):
    prompt = prompt_of(20)
    llama.add(1, prompt, grammar=grammar("[a-z]+"))
    with monkeypatch.context() as broken:
        broken.setattr(llama.runner, "_network", None)
        with pytest.raises(AttributeError):
            llama.step(k1=len(prompt))
    llama.drop(1)
    llama.add(2, prompt, grammar=grammar("[a-z]{2}"))
    llama.step(k2=len(prompt))
    assert llama.step(k2=1).completed_grammars == {2}
    assert bytes(llama.tokens[2][len(prompt) :]).islower()


def test_dropped_requests_leave_no_state(llama):
    llama.add(1, prompt_of(6))
    llama.step(k1=6)
    llama.drop(1)
    llama.drop(77)
    llama.step()
    assert llama.runner.num_requests == 0


def test_a_step_beyond_the_known_tokens_is_refused(llama):
    llama.add(1, prompt_of(6))
    with pytest.raises(ValueError, match="6 known"):
        llama.step(k1=7)


def test_an_unknown_request_is_refused(llama_runner):
    step = SchedulerOutput(0, (), (ScheduledRequest(RequestKey(12345), 0, 1, (1,), True),))
    with pytest.raises(KeyError):
        llama_runner.execute(step)


def test_info_names_what_was_loaded(llama_runner, llama_dir):
    info = llama_runner.info
    assert isinstance(info, ModelInfo)
    assert (info.vocab_size, info.eos_token_ids, info.num_blocks) == (199, (2,), 64)
    assert (info.max_model_len, info.embedding_size, info.dtype, info.device) == (256, 64, "float32", "cpu")
    assert info.tokenizer_dir == str(llama_dir)
