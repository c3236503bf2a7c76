"""`LLM` with an engine in this process: forms of prompts, shapes of outputs, order, bounds and errors."""

import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from fast_inference import LLM, SamplingParams
from ipc.errors import (
    ConfigError,
    ContextLengthError,
    EngineUnavailableError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from tests.own_modules import byte_tokenizer, tiny_model
from tests.processes import InterruptedProgram
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
HELLO = [{"role": "user", "content": "hello"}]


class AsyncPrompts:
    """An asynchronous iterator, which is for `AsyncLLM`."""

    def __aiter__(self):
        return self

    async def __anext__(self):
        raise StopAsyncIteration


def texts(outputs):
    return [output.outputs[0].text for output in outputs]


def test_all_forms_of_a_prompt_say_the_same(llm):
    [one] = llm.generate("one", GREEDY)
    ids = one.prompt_token_ids
    forms = ["one", ids, {"prompt": "one"}, {"prompt_token_ids": ids}, {"prompt": "one", "prompt_token_ids": ids}]
    outputs = llm.generate(forms, GREEDY)
    assert texts(outputs) == texts([one]) * 5 == texts(llm.generate(ids, GREEDY)) * 5
    assert [output.prompt for output in outputs] == ["one", None, "one", None, "one"]
    assert [output.prompt_token_ids for output in outputs] == [ids] * 5
    assert llm.generate([], GREEDY) == []


def test_outputs_have_the_shapes_of_vllm(llm):
    params = SamplingParams(n=2, seed=1, max_tokens=5, logprobs=2, prompt_logprobs=1, ignore_eos=True)
    [output] = llm.generate(["one two"], params)
    assert output.finished
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
    assert [answer.index for answer in output.outputs] == [0, 1]
    for answer in output.outputs:
        assert (answer.finish_reason, answer.stop_reason, len(answer.token_ids)) == ("length", None, 5)
        assert len(answer.logprobs) == 5
        own = [entries[token_id] for token_id, entries in zip(answer.token_ids, answer.logprobs, strict=True)]
        assert answer.cumulative_logprob == sum(entry.logprob for entry in own)
        assert all(2 <= len(entries) <= 3 for entries in answer.logprobs)
        assert own[0].decoded_token == answer.text[0]
    [plain] = llm.generate("one", GREEDY)
    assert (plain.prompt_logprobs, plain.outputs[0].logprobs, plain.outputs[0].cumulative_logprob) == (None, None, None)


def test_a_stop_string_ends_text_and_tokens(llm):
    [whole] = llm.generate("one", GREEDY)
    text = whole.outputs[0].text
    [output] = llm.generate("one", SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True, stop=[text[3]]))
    assert output.outputs[0].text == text[: text.index(text[3])]
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", text[3])
    assert output.outputs[0].token_ids == whole.outputs[0].token_ids[: text.index(text[3]) + 1]


def test_answers_come_in_the_order_of_the_prompts_each_with_its_parameters(llm):
    prompts = [f"prompt {number}" for number in range(60)]
    lengths = [1 + number * 7 % 20 for number in range(60)]
    params = [SamplingParams(max_tokens=length, ignore_eos=True) for length in lengths]
    outputs = llm.generate(prompts, params)
    assert [output.prompt for output in outputs] == prompts
    assert [len(output.outputs[0].token_ids) for output in outputs] == lengths
    ids = [int(output.request_id) for output in outputs]
    assert ids == sorted(ids)


def test_without_a_limit_an_answer_fills_the_context():
    with LLM("fake", max_model_len=64) as llm:
        [output] = llm.generate("one", SamplingParams(max_tokens=None, ignore_eos=True))
    assert len(output.prompt_token_ids) + len(output.outputs[0].token_ids) == 64


def test_a_chat_is_one_conversation_or_several(llm):
    [one] = llm.chat(HELLO, GREEDY, use_tqdm=False)
    assert "hello" in one.prompt
    other = [{"role": "user", "content": "other"}]
    outputs = llm.chat([HELLO, other], GREEDY)
    assert texts(outputs) == texts([one]) + texts(llm.chat(other, GREEDY))
    [continued] = llm.chat([*HELLO, {"role": "assistant", "content": "I am"}], GREEDY, continue_final_message=True)
    assert continued.prompt.endswith("I am")


def test_structured_outputs_hold(llm):
    digits = SamplingParams(structured_outputs={"regex": "[0-9]{3}"}, max_tokens=None)
    assert all(text.isdecimal() and len(text) == 3 for text in texts(llm.generate(["one", "two"], digits)))


def test_an_iterator_is_read_as_answers_make_room(llm):
    num_read = 0

    def prompts():
        nonlocal num_read
        for number in range(2000):
            num_read += 1
            yield f"prompt {number}"

    outputs = llm.generate_each(prompts(), SamplingParams(max_tokens=1))
    assert [next(outputs).prompt for _ in range(3)] == ["prompt 0", "prompt 1", "prompt 2"]
    assert num_read <= 3 + 4 * llm._requester.num_at_once
    outputs.close()


def test_who_stops_reading_stops_the_requests(llm):
    outputs = llm.generate_each((f"prompt {number}" for number in itertools.count()), GREEDY)
    next(outputs)
    outputs.close()
    wait_until(lambda: not llm._client.state.client._cores.channels[0].link.session.requests)


def test_a_list_longer_than_the_queue_is_waited_for():
    with LLM("fake", max_num_seqs=2, max_queued_requests=2) as llm:
        assert len(llm.generate(["one"] * 40, SamplingParams(max_tokens=1, n=3))) == 40


def test_a_wrong_prompt_is_named_before_anything_runs(llm):
    before = llm.generate("one", GREEDY)[0].request_id
    with pytest.raises(ContextLengthError, match="item 2: ") as caught:
        llm.generate(["one", "two", "x" * 100_000, "four"], GREEDY)
    assert caught.value.param == "prompt"
    assert not llm._client.state.client._cores.channels[0].link.session.requests
    assert int(llm.generate("one", GREEDY)[0].request_id) == int(before) + 4  # the last one was not looked at


@pytest.mark.parametrize(
    ("prompts", "params", "param"),
    [
        ("one", SamplingParams(temperature=-1), "temperature"),
        ("one", SamplingParams(n=0), "n"),
        ("one", SamplingParams(structured_outputs={"regexp": "a"}), "structured_outputs.regexp"),
        ("", GREEDY, "prompt"),
        ([[]], GREEDY, "prompt"),
        ([["one"]], GREEDY, "prompt"),
        ([{"text": "one"}], GREEDY, "prompt"),
        ([None], GREEDY, "prompt"),
        (7, GREEDY, "prompts"),
        (AsyncPrompts(), GREEDY, "prompts"),
        (["one"], [GREEDY, GREEDY], "sampling_params"),
        (iter(["one"]), [GREEDY], "sampling_params"),
        ("one", {"max_tokens": 3}, "sampling_params"),
    ],
)
def test_wrong_input_is_named(llm, prompts, params, param):
    with pytest.raises(InvalidRequestError) as caught:
        llm.generate(prompts, params)
    assert caught.value.param == param


def test_an_unknown_adapter_is_refused(llm):
    with pytest.raises(Exception, match="does not exist"):
        llm.generate("one", GREEDY, adapter="none")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"model": "fake", "gpu_memory_utilization": 0.9}, "'gpu_memory_utilization': .*kv_cache_memory_bytes"),
        ({"model": "fake", "max_num_seq": 3}, "did you mean max_num_seqs"),
        ({"model": "fake", "tensor_parallel_size": 2}, "one device"),
        ({"model": "fake", "request_class": "later"}, "request_class"),
        ({"model": "fake", "attach": "/nowhere"}, "model cannot go with attach"),
        ({"attach": "/nowhere"}, "no server runs on /nowhere"),
        ({"attach": "http://example.com:8000"}, "not this machine"),
    ],
)
def test_what_cannot_start_is_one_line(arguments, problem):
    before = threading.active_count()
    with pytest.raises(ConfigError, match=problem) as caught:
        LLM(**arguments)
    assert "\n" not in caught.value.message
    assert threading.active_count() == before


def test_arguments_of_vllm_that_say_what_is_so_are_taken():
    with LLM("fake", tensor_parallel_size=1, trust_remote_code=False, max_model_len=128) as llm:
        assert llm.generate("one", GREEDY)


def test_it_works_inside_a_running_event_loop(llm):
    async def ask():
        return llm.generate("one", GREEDY)

    assert texts(asyncio.run(ask())) == texts(llm.generate("one", GREEDY))


def test_progress_is_plain_lines_where_there_is_no_terminal(llm, capsys, monkeypatch):
    monkeypatch.setattr("fast_inference.batch.progress.LINE_INTERVAL_S", 0.0)
    llm.generate(["one", "two"], GREEDY)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" done")[0] for line in lines] == ["1 of 2 prompts", "2 of 2 prompts"]
    llm.generate(["one", "two"], GREEDY, use_tqdm=False)
    assert capsys.readouterr().err == ""


def test_the_tokenizer_is_the_models(llm):
    [output] = llm.generate("one", GREEDY)
    assert llm.get_tokenizer().encode("one").ids == output.prompt_token_ids


def test_a_module_is_a_model():
    with LLM(tiny_model(), byte_tokenizer(), max_model_len=64) as llm:
        assert texts(llm.generate(["one", "two"], GREEDY))
        [vector] = llm.embed("one")
        assert vector.outputs.hidden_size == 64


def test_a_closed_one_says_so():
    llm = LLM("fake")
    llm.close()
    llm.close()
    with pytest.raises(EngineUnavailableError, match="closed"):
        llm.generate("one")


def test_vectors_may_be_shortened(llm):
    [output] = llm.embed(["one"], dimensions=4)
    assert output.outputs.hidden_size == 4
    assert sum(value * value for value in output.outputs.embedding) == pytest.approx(1)
    with pytest.raises(InvalidRequestError) as caught:
        llm.embed(["one"], dimensions=10_000)
    assert caught.value.param == "dimensions"
    assert not isinstance(caught.value, UnsupportedParameterError)


def test_outputs_that_are_to_come_keep_the_engine():
    def answers():
        return LLM("fake").generate_each(["one", "two"], GREEDY, use_tqdm=False)

    assert len(list(answers())) == 2


def run_program(program: str, **environment: str) -> "subprocess.Popen[str]":
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def short_dir():
    """A temporary folder whose name leaves room for those of sockets."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder


@pytest.mark.alone
def test_an_interrupt_ends_the_program_and_leaves_nothing():
    program = (
        "from fast_inference import LLM, SamplingParams\n"
        "llm = LLM('fake', fake_step_ms=20)\n"
        "def prompts():\n"
        "    yield 'one'\n"
        "    print('started', flush=True)\n"
        "    yield 'two'\n"
        "llm.generate(prompts(), SamplingParams(max_tokens=4000, ignore_eos=True))\n"
    )
    InterruptedProgram(program).check_ended_and_left_nothing()


def test_importing_the_package_imports_nothing_and_its_names_no_torch():
    program = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import fast_inference\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before} - {'fast_inference'}\n"
        "assert new <= set(sys.stdlib_module_names), new\n"
        "from fast_inference import LLM, AsyncLLM, SamplingParams, RequestOutput, CompletionOutput, EmbeddingOutput\n"
        "assert 'torch' not in sys.modules\n"
    )
    process = run_program(program)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0


def test_a_forked_process_ends_and_leaves_the_engine_alone(short_dir):
    program = (
        "import os, sys\n"
        "from fast_inference import LLM\n"
        "from ipc.errors import EngineUnavailableError\n"
        "llm = LLM('fake')\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    try:\n"
        "        llm.generate('one')\n"
        "    except EngineUnavailableError:\n"
        "        sys.exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7\n"
        "print(len(llm.generate('two', use_tqdm=False)))\n"
    )
    process = run_program(program, TMPDIR=short_dir)
    try:
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, stdout) == (0, "1\n"), stderr
    assert os.listdir(short_dir) == []
