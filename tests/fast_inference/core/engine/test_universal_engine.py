"""An engine in this process: what it answers, from where it may be asked, and that nothing of it is left."""

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fast_inference.core.engine import OpenAIServingEngine, create_universal_vllm_style_engine
from ipc.errors import ConfigError, EngineUnavailableError, InvalidRequestError, ModelNotFoundError, RequestFailedError
from tests.own_modules import PlainModel, byte_tokenizer, tiny_model
from tests.processes import InterruptedProgram
from tests.waiting import wait_until

ROOT = Path(__file__).parents[4]
GREEDY = {"max_tokens": 12, "temperature": 0.0, "ignore_eos": True}


@pytest.fixture(scope="module")
def engine():
    with create_universal_vllm_style_engine("fake") as engine:
        yield engine


def test_a_text_gives_a_text_and_a_list_a_list(engine):
    one = engine.generate("one", **GREEDY)
    assert isinstance(one, str)
    assert engine.generate(["one", "two"], **GREEDY) == [one, engine.generate("two", **GREEDY)]
    assert engine.generate([], **GREEDY) == []


def test_pieces_are_the_whole(engine):
    pieces = list(engine.generate("one", stream=True, **GREEDY))
    assert len(pieces) > 1
    assert "".join(pieces) == engine.generate("one", **GREEDY)
    messages = [{"role": "user", "content": "hello"}]
    assert "".join(engine.chat(messages, stream=True, **GREEDY)) == engine.chat(messages, **GREEDY)


def test_a_list_may_be_longer_than_the_queue():
    with create_universal_vllm_style_engine("fake", max_batch_size=4, max_queued_requests=8) as engine:
        assert len(engine.generate(["one"] * 1500, max_tokens=1)) == 1500


def test_token_ids_are_a_prompt(engine):
    assert engine.generate([5, 6, 7], **GREEDY) == engine.generate([[5, 6, 7]], **GREEDY)[0]


def test_one_text_has_one_vector(engine):
    assert engine.embed("one") == engine.embed(["one"])


def test_it_works_inside_a_running_event_loop(engine):
    async def ask():
        streamed = [piece async for piece in engine.astream("one", **GREEDY)]
        return engine.generate("one", **GREEDY), await engine.agenerate(["one"], **GREEDY), "".join(streamed)

    whole, [awaited], streamed = asyncio.run(ask())
    assert whole == awaited == streamed


def test_threads_share_it(engine):
    prompts = [f"prompt {number}" for number in range(16)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda prompt: engine.generate(prompt, **GREEDY), prompts))
    assert answers == engine.generate(prompts, **GREEDY)


def test_two_engines_run_at_once(engine):
    with create_universal_vllm_style_engine("fake", block_size=16, num_blocks=64, max_batch_size=2) as other:
        assert other.generate("one", **GREEDY) == engine.generate("one", **GREEDY)
        assert other.run_dir.path != engine.run_dir.path


@pytest.mark.parametrize(
    ("params", "param"), [({"max_token": 3}, "max_token"), ({"temperature": -1}, "temperature"), ({"n": 2}, "n")]
)
def test_wrong_parameters_are_named(engine, params, param):
    with pytest.raises(InvalidRequestError) as caught:
        engine.generate("one", **params)
    assert caught.value.param == param


def test_no_other_model_is_asked_for(engine):
    """It may be the name of an adapter, or nobody's."""
    for ask in (engine.generate, engine.embed):
        with pytest.raises(ModelNotFoundError, match="The model nobody"):
            ask("one", model="nobody")


def test_who_stops_reading_stops_the_request(engine):
    stream = engine.generate("one", stream=True, max_tokens=4000, ignore_eos=True)
    next(stream)
    stream.close()
    client = engine._client.state.client
    while client._cores.channels[0].link.session.requests:
        engine.generate("two", max_tokens=1)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"model": "/nowhere"}, "no model '/nowhere'"),
        ({"model": "fake", "block_size": 20}, "--block-size"),
        ({"model": "fake", "scheduler_policy": "lifo"}, "--scheduling-policy"),
        ({"model": "fake", "max_num_seq": 3}, "no setting 'max_num_seq', did you mean max_num_seqs"),
        ({"model": "fake", "max_batch_size": 3, "max_num_seqs": 3}, "given twice"),
        ({"model": 3}, "must be a path, a name or a torch.nn.Module"),
    ],
)
def test_what_cannot_run_is_one_line(arguments, problem):
    before = threading.active_count()
    with pytest.raises(ConfigError, match=problem) as caught:
        create_universal_vllm_style_engine(**arguments)
    assert "\n" not in caught.value.message
    assert threading.active_count() == before


@pytest.mark.parametrize("settings", [{"dtype": "float32"}, {"lora": ["sql=/adapters/sql"]}, {"rope": "tokens"}])
def test_settings_of_files_are_refused_for_a_module(settings):
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} is for models in files"):
        create_universal_vllm_style_engine(tiny_model(), byte_tokenizer(), **settings)


def test_what_lies_in_the_working_directory_says_nothing_of_a_module(tmp_path, monkeypatch):
    (tmp_path / "modules.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with create_universal_vllm_style_engine(tiny_model(), byte_tokenizer(), num_blocks=40) as engine:
        assert engine.generate("one", **GREEDY)


def test_the_model_is_not_served_under_the_name_of_an_adapter():
    with (
        create_universal_vllm_style_engine("fake", lora=["sql=/adapters/sql"]) as engine,
        pytest.raises(ConfigError, match="served under the name sql"),
    ):
        OpenAIServingEngine(engine, "sql")


def open_files() -> list[str]:
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    return sorted(os.readlink(link) for link in links if os.path.lexists(link))


def test_nothing_is_left_of_closed_engines():
    before = threading.active_count(), open_files()
    for _ in range(3):
        with create_universal_vllm_style_engine("fake") as engine:
            engine.generate("one", max_tokens=2)
            engine.generate(["a" * 20_000, "b"], max_tokens=2, truncate_prompt_tokens=8)  # tokenized in a thread
        assert not engine.run_dir.path.parent.exists()
    assert (threading.active_count(), open_files()) == before
    with pytest.raises(EngineUnavailableError, match="closed"):
        engine.generate("one")


def test_a_closed_engine_keeps_neither_its_module_nor_the_threads_of_its_sampler():
    before, module = threading.active_count(), tiny_model()
    alive = weakref.ref(module)
    with create_universal_vllm_style_engine(module, byte_tokenizer(), eos_token_ids=[3]) as engine:
        del module
        assert engine.generate("one", structured_outputs={"regex": "[0-9]{3}"}).isdecimal()
    wait_until(lambda: threading.active_count() == before)
    assert alive() is None


def test_an_engine_ends_with_its_last_reference():
    before = threading.active_count()
    engine = create_universal_vllm_style_engine("fake")
    folder = engine.run_dir.path
    del engine
    gc.collect()
    assert not folder.exists()
    assert threading.active_count() == before


def test_it_may_be_closed_on_its_own_thread():
    """Where the collector may run that finds its last reference."""
    engine = create_universal_vllm_style_engine("fake")

    async def close():
        engine.close()

    engine._client.submit(close()).result()
    wait_until(lambda: not engine.run_dir.path.exists())


def test_closing_ends_what_runs_in_an_error():
    engine = create_universal_vllm_style_engine("fake", fake_step_ms=20)
    stream = engine.generate("one", stream=True, max_tokens=4000, ignore_eos=True)
    next(stream)
    engine.close()
    with pytest.raises(EngineUnavailableError):
        list(stream)


def ask_until_it_is_gone(engine):
    """Of a core whose steps all fail, each request fails alone until it gives up."""
    for _ in range(50):
        with contextlib.suppress(RequestFailedError):
            engine.generate("one", **GREEDY)


def test_a_core_that_fails_ends_its_calls_in_an_error():
    with create_universal_vllm_style_engine("fake", fake_faults="broken@3") as engine:
        with pytest.raises(EngineUnavailableError):
            ask_until_it_is_gone(engine)
        wait_until(lambda: engine._client.end is not None)
        with pytest.raises(EngineUnavailableError, match="has failed"):
            engine.generate("one")


def test_a_core_whose_io_thread_fails_ends_its_calls_in_an_error():
    before = threading.active_count(), open_files()
    engine = create_universal_vllm_style_engine("fake", fake_step_ms=5)
    stream = engine.generate("one", stream=True, max_tokens=4000, ignore_eos=True)
    next(stream)
    _, _, (_, thread, _), _ = engine._finalizer.peek()
    thread._server._io._post(lambda: 1 / 0)
    with pytest.raises(EngineUnavailableError):
        list(stream)
    with pytest.raises(EngineUnavailableError, match="has failed"):
        engine.generate("one")
    engine.close()
    assert (threading.active_count(), open_files()) == before


@pytest.mark.alone
def test_an_interrupt_ends_the_program_and_leaves_nothing():
    program = (
        "from fast_inference.core.engine import create_universal_vllm_style_engine\n"
        "engine = create_universal_vllm_style_engine('fake', fake_step_ms=20)\n"
        "print('started', flush=True)\n"
        "engine.generate('one', max_tokens=4000, ignore_eos=True)\n"
    )
    InterruptedProgram(program).check_ended_and_left_nothing()


def test_importing_it_imports_no_torch():
    program = "import sys, fast_inference.core.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False).returncode == 0


# --- modules ---------------------------------------------------------------------------------------------------------

PROMPTS = ["Once upon a time", "x", "hello there " * 10]


def test_the_cache_changes_nothing():
    """In chunks, several at once and with a cached prefix, a paged module says what it says without any cache."""
    module = tiny_model()
    few = {**GREEDY, "max_tokens": 6}
    settings = {"tokenizer": byte_tokenizer(), "block_size": 16, "max_num_batched_tokens": 64}
    with create_universal_vllm_style_engine(PlainModel(module), **settings) as engine:
        expected = engine.generate(PROMPTS, **few)
        assert engine.generate(PROMPTS, **few) == expected
    with create_universal_vllm_style_engine(module, **settings) as engine:
        assert engine.generate(PROMPTS, **few) == expected
        assert engine.generate(PROMPTS, **few) == expected
        assert len(engine.embed(["hello"])[0]) == module.config.hidden_size


@pytest.mark.parametrize("is_paged", [True, False])
def test_logits_may_lie_in_any_order(is_paged):
    """Of several requests; of one, every order is the same."""

    class ColumnByColumn(type(tiny_model())):
        def compute_logits(self, hidden):
            return super().compute_logits(hidden).T.contiguous().T

    class WholeColumnByColumn(PlainModel):
        def forward(self, input_ids):
            return super().forward(input_ids).mT.contiguous().mT

    usual, other = tiny_model(), ColumnByColumn()
    other.load_state_dict(usual.state_dict())
    modules = (usual, other) if is_paged else (PlainModel(usual), WholeColumnByColumn(usual))
    answers = []
    for module in modules:
        with create_universal_vllm_style_engine(module, tokenizer=byte_tokenizer(), num_blocks=40) as engine:
            answers.append(engine.generate(PROMPTS, **{**GREEDY, "max_tokens": 4}))
    assert answers[0] == answers[1]


def test_a_module_of_transformers_gets_our_attention_where_it_can():
    import torch
    import transformers

    sizes = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 256}
    config = transformers.LlamaConfig(
        **sizes, intermediate_size=128, num_hidden_layers=2, max_position_embeddings=128,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    reference = model.generate(ids, max_new_tokens=12, do_sample=False)[0, 5:].tolist()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="z")
    with create_universal_vllm_style_engine(model, tokenizer=tokenizer) as engine:
        assert engine.generate(ids[0].tolist(), **GREEDY) == byte_tokenizer().decode(reference)
        assert engine._client.state.model().welcome.eos_token_ids == (byte_tokenizer().token_to_id("z"),)
    assert config._attn_implementation == "fast_inference_paged"


def test_one_that_cannot_take_it_is_recomputed():
    import torch
    import transformers

    config = transformers.BloomConfig(
        hidden_size=64, n_layer=2, n_head=4, vocab_size=256, bos_token_id=None, eos_token_id=None, pad_token_id=0
    )
    model = transformers.BloomForCausalLM(config).eval()
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    reference = model.generate(ids, max_new_tokens=12, do_sample=False)[0, 5:].tolist()
    with create_universal_vllm_style_engine(model, tokenizer=byte_tokenizer(), max_seq_len=64) as engine:
        assert engine.generate(ids[0].tolist(), **GREEDY) == byte_tokenizer().decode(reference)
