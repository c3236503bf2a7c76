"""Tiny random models on disk, and a driver that plays the scheduler with block tables of the test's choice."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from engine_core.model.fake_runner import IM_END_ID, write_fake_tokenizer
from engine_core.model.fake_runner import VOCAB_SIZE as NUM_BYTE_TOKENS
from engine_core.model.loader import load_model_runner
from engine_core.model.model_runner import TorchModelRunner
from engine_core.outputs import ModelRunnerOutput, NewRequestData, RequestKey, ScheduledRequest, SchedulerOutput
from engine_core.structured_output.grammar import CompiledGrammar
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.messages import Task
from ipc.sampling_params import SamplingParams

VOCAB_SIZE = 199
BLOCK_SIZE = 16
GREEDY = SamplingParams(max_tokens=100, temperature=0.0, ignore_eos=True)
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}


def _save(network, folder: Path) -> Path:
    network.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A word for each token id."""
    vocabulary = {"<unk>": 0, **{f"t{index}": index for index in range(1, VOCAB_SIZE)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    return _save(LlamaForCausalLM(LlamaConfig(**SIZES)), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def mistral_dir(tmp_path_factory) -> Path:
    """Every layer sees 12 tokens only: less than a block."""
    torch.manual_seed(2)
    return _save(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=12)), tmp_path_factory.mktemp("mistral"))


def load(folder: Path, **settings) -> TorchModelRunner:
    model = ModelConfig(model=str(folder), threads=1, **{"device": "cpu", "dtype": "float32", **settings})
    cache = CacheConfig(block_size=BLOCK_SIZE, num_blocks=64)
    return load_model_runner(model, cache, SchedulerConfig(max_num_seqs=8), lambda stage: None)


class Driver:
    """Feeds a runner step by step; blocks are handed out in a scattered order."""

    def __init__(self, runner: TorchModelRunner) -> None:
        self.runner = runner
        self.free_blocks = [(index * 37) % 64 for index in range(64)]
        self.blocks: dict[int, list[int]] = {}
        self.tokens: dict[int, list[int]] = {}
        self.num_computed: dict[int, int] = {}
        self._new: list[NewRequestData] = []
        self._dropped: list[RequestKey] = []
        self._step = 0

    def add(
        self,
        key: int,
        prompt: Sequence[int],
        params: SamplingParams = GREEDY,
        task: Task = Task.GENERATE,
        num_prompt_tokens: int | None = None,
        cached_blocks: Sequence[int] = (),
        grammar: CompiledGrammar | None = None,
        adapter: str = "",
    ) -> None:
        self.tokens[key] = list(prompt)
        self.blocks[key] = list(cached_blocks)
        self.num_computed[key] = len(cached_blocks) * BLOCK_SIZE
        num_prompt, blocks = num_prompt_tokens or len(prompt), tuple(cached_blocks)
        new = NewRequestData(RequestKey(key), tuple(prompt), num_prompt, params, task, blocks, grammar, adapter)
        self._new.append(new)

    def drop(self, key: int) -> None:
        self._dropped.append(RequestKey(key))

    def step(self, **num_tokens: int) -> ModelRunnerOutput:
        """Compute `k1=5`: five tokens of request 1. Sampled tokens are taken over."""
        scheduled = []
        for name, count in num_tokens.items():
            key = int(name[1:])
            start, end = self.num_computed[key], self.num_computed[key] + count
            needed = -(-end // BLOCK_SIZE) - len(self.blocks[key])
            new_blocks = [self.free_blocks.pop(0) for _ in range(needed)]
            self.blocks[key] += new_blocks
            self.num_computed[key] = end
            is_last = end == len(self.tokens[key])
            scheduled.append(ScheduledRequest(RequestKey(key), start, count, tuple(new_blocks), is_last))
        plan = SchedulerOutput(self._step, tuple(self._new), tuple(scheduled), tuple(self._dropped))
        self._new, self._dropped, self._step = [], [], self._step + 1
        output = self.runner.execute(plan)
        for key, token_id in output.sampled_token_ids.items():
            self.tokens[key].append(token_id)
        return output

    def decode(self, key: int, count: int) -> None:
        for _ in range(count):
            self.step(**{f"k{key}": 1})


@pytest.fixture(scope="session")
def native_llama_runner(llama_dir):
    return load(llama_dir, model_impl="native")


@pytest.fixture(scope="session")
def torch_llama_runner(llama_dir):
    return load(llama_dir, model_impl="native", cpu_kernels=False)


@pytest.fixture(scope="session")
def transformers_llama_runner(llama_dir):
    return load(llama_dir, model_impl="transformers")


@pytest.fixture(params=["native", "torch", "transformers"])
def llama_runner(request):
    """All implementations must pass every test."""
    return request.getfixturevalue(f"{request.param}_llama_runner")


@pytest.fixture(scope="session")
def mistral_runner(mistral_dir):
    return load(mistral_dir)


@pytest.fixture(scope="session")
def load_tiny():
    return load


@pytest.fixture
def drive_tiny():
    """A driver on a runner that is loaded for the test."""
    return lambda folder, **settings: Driver(load(folder, **settings))


@pytest.fixture
def llama(llama_runner):
    return _fresh(llama_runner)


@pytest.fixture
def mistral(mistral_runner):
    return _fresh(mistral_runner)


@pytest.fixture(params=["native_llama", "transformers_llama", "mistral"])
def driver_and_dir(request, llama_dir, mistral_dir):
    folder = mistral_dir if request.param == "mistral" else llama_dir
    return _fresh(request.getfixturevalue(f"{request.param}_runner")), folder


def _fresh(runner) -> Driver:
    """A driver on a loaded runner; the cache keeps what other tests wrote, as in a server."""
    driver = Driver(runner)
    for key in range(100):
        driver.drop(key)
    driver.step()
    assert runner.num_requests == 0
    return driver


def reference_tokens(folder: Path, prompt: Sequence[int], count: int) -> list[int]:
    """Prompt and greedy continuation by transformers' own `generate`."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    network.generation_config.eos_token_id = None
    ids = torch.tensor([list(prompt)])
    return network.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, pad_token_id=0
    )[0].tolist()


@pytest.fixture(scope="session")
def generate():
    return reference_tokens


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory) -> LLTokenizer:
    """Ids 0 to 255 are bytes, `IM_END_ID` is EOS."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_fake_tokenizer(folder)
    return LLTokenizer(str(folder / "tokenizer.json"), n_vocab=NUM_BYTE_TOKENS, eos_token=[IM_END_ID])


@pytest.fixture(scope="session")
def grammar(byte_tokenizer) -> Callable[[str], CompiledGrammar]:
    """Compiles a regular expression."""
    return lambda regex: CompiledGrammar(byte_tokenizer, LLMatcher.grammar_from_regex(regex))
