"""What lm-eval's `local-completions` sends: log-probabilities and greedy flags are transformers' own, in fp32."""

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from tests.servers import Server

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

MODEL = "smollm2-135m-instruct"
TEXTS = ["The capital of France is Paris.", "Water boils at 100 degrees, l'été à 日本 👩🏽 too.", "1, 2, 3, 4, 5, 6, 7"]


@pytest.fixture(scope="module")
def server(smollm2_dir, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("smollm2"), MODEL, "--dtype", "float32", "--threads", "1")
    yield server
    server.close()


@pytest.fixture(scope="module")
def prompts(smollm2_dir):
    tokenizer = Tokenizer.from_file(str(smollm2_dir / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in TEXTS]


@pytest.fixture(scope="module")
def expected(smollm2_dir, prompts):
    """Of each prompt `[num_tokens - 1, vocab_size]`."""
    network = LlamaForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    with torch.inference_mode():
        return [network(torch.tensor([ids])).logits[0, :-1].log_softmax(dim=-1) for ids in prompts]


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_scores_and_greedy_flags_are_those_of_transformers(server, prompts, expected, max_tokens):
    with server.openai() as client:
        answer = client.completions.create(
            model=MODEL, prompt=prompts, max_tokens=max_tokens, temperature=0, logprobs=1, echo=True, seed=1234
        )
    assert answer.usage.completion_tokens == max_tokens * len(prompts)
    for choice, ids, rows, text in zip(answer.choices, prompts, expected, TEXTS, strict=True):
        assert choice.text.startswith(text)
        end = len(ids)
        found = choice.logprobs
        assert len(found.tokens) == end + max_tokens
        own = rows[torch.arange(end - 1), torch.tensor(ids[1:])]
        assert torch.allclose(torch.tensor(found.token_logprobs[1:end]), own, atol=1e-2)
        best = zip(found.token_logprobs[1:end], found.top_logprobs[1:end], strict=True)
        is_greedy = [logprob == max(top.values()) for logprob, top in best]
        assert is_greedy == (rows.argmax(dim=-1) == torch.tensor(ids[1:])).tolist()
        assert any(is_greedy)
        assert not all(is_greedy)


def test_offsets_cut_the_text_into_its_tokens(server, prompts):
    with server.openai() as client:
        answer = client.completions.create(model=MODEL, prompt=TEXTS[1], max_tokens=20, logprobs=0, echo=True, seed=3)
    (choice,) = answer.choices
    edges = [*choice.logprobs.text_offset, len(choice.text)]
    assert edges == sorted(edges)
    for token, begin, end in zip(choice.logprobs.tokens, edges, edges[1:], strict=False):
        assert token == choice.text[begin:end] or token.startswith(("bytes:", "<|"))
