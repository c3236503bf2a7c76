"""`fast-inference plan`: the numbers of a real core, and one line where there are none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipc.sync_client import SyncEngineClient
from tests.processes import core_process
from tests.safetensors_files import write_safetensors

ROOT = Path(__file__).parents[2]
CONFIG = {
    "model_type": "gpt_neox",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 50,
    "max_position_embeddings": 512,
}


def plan(*argv, code="import sys; from fast_inference.cli import main; sys.exit(main())", **environment):
    env = {name: value for name, value in os.environ.items() if not name.startswith("FAST_INFERENCE_")}
    return subprocess.run(
        [sys.executable, "-c", code, "plan", *map(str, argv)],
        cwd=ROOT, env=env | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def plan_json(*argv, **environment):
    done = plan(*argv, "--json", **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of 1,000 parameters, all of them in the header."""
    folder = tmp_path_factory.mktemp("model")
    write_safetensors(folder / "model.safetensors", a=("BF16", [1000]))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_people_get_a_line_for_each_number(folder):
    done = plan(folder, "--device", "cpu", "--dtype", "float32", "--num-blocks", "8", "--threads", "3")
    assert done.returncode == 0
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["weights"] == "3.9 KiB"
    assert lines["device"] == "cpu, float32"
    assert lines["threads"] == "3"
    assert lines["KV"] == "cache         256.0 KiB: 8 blocks of 32 tokens, 1,024 bytes per token"
    assert lines["concurrency"] == "1.0 requests of that length"
    assert lines["note:"] == "max_model_len is 256 instead of 512: the KV cache holds no more tokens"


def test_a_sentence_encoder_has_no_cache(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", a=("F32", [1000]))
    bert = {"model_type": "bert", "intermediate_size": 128, "type_vocab_size": 2, "hidden_act": "gelu"}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | bert))
    lines = dict(line.split(maxsplit=1) for line in plan(tmp_path, "--device", "cpu").stdout.splitlines())
    assert (lines["device"], lines["KV"]) == ("cpu, float32", "cache         none: a sentence encoder")
    assert lines["longest"] == "request  512 tokens"


def test_every_flag_that_matters_counts(folder):
    flags = ("--device", "cpu", "--dtype", "bfloat16", "--max-model-len", "64", "--block-size", "16")
    result = plan_json(folder, *flags, "--kv-cache-memory-bytes", 512 * 16 * 10)
    assert (result["num_blocks"], result["block_size"], result["max_model_len"]) == (10, 16, 64)
    assert (result["weights_bytes"], result["dtype"], result["max_concurrency"]) == (2000, "bfloat16", 2.5)
    small = plan_json(folder, "--max-num-seqs", "2", "--max-num-batched-tokens", "32")
    assert small["workspace_bytes"] < result["workspace_bytes"]
    assert small["num_blocks"] == 4 * 512 / 32


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_several_cores_have_equal_parts_of_the_machine(folder):
    one, two = plan_json(folder, "--device", "cpu"), plan_json(folder, "--device", "cpu", "--cores", "2")
    assert (one["num_cores"], two["num_cores"]) == (1, 2)
    assert two["available_bytes"] == pytest.approx(one["available_bytes"] / 2, rel=0.1)
    assert two["num_threads"] <= len(os.sched_getaffinity(0)) - 1
    lines = plan(folder, "--device", "cpu", "--cores", "2").stdout.splitlines()
    assert "cores            2, each as follows" in lines
    assert any(line.startswith("needed") and line.endswith(" for each of 2 cores") for line in lines)


def test_the_environment_counts_too(folder):
    assert plan_json(folder, FAST_INFERENCE_NUM_BLOCKS="9")["num_blocks"] == 9


def test_torch_is_not_imported(folder):
    code = (
        "import sys; from fast_inference.cli import main; code = main(); "
        "print('torch' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = plan(folder, "--device", "cpu", code=code)
    assert (done.returncode, done.stderr) == (0, "False\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("fake",), "nothing to plan"),
        (("/no/such/model",), "no model '/no/such/model'"),
        (("--max-model-len", "513"), "at most 512 tokens"),
        (("--num-blocks", "999999999"), "use --num-blocks "),
        (
            ("--device", "cpu", "--cores", str(min(64, 1 + len(os.sched_getaffinity(0))))),
            "each core needs one of its own",
        ),
    ],
)
def test_an_impossible_plan_is_one_line_and_status_1(folder, argv, message):
    done = plan(*argv) if argv[0] in ("fake", "/no/such/model") else plan(folder, *argv)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_a_model_that_is_not_in_the_cache_is_not_downloaded(tmp_path):
    done = plan(XDG_CACHE_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "`fast-inference pull smollm2-135m-instruct`" in done.stderr


@pytest.mark.model
def test_a_core_does_what_the_plan_says(smollm2_dir, tmp_path):
    result = plan_json(smollm2_dir, "--max-num-seqs", "4", "--max-model-len", "2048")
    settings = {"max_num_seqs": 4, "max_model_len": 2048, "num_blocks": None, "threads": 1}
    with (
        core_process(tmp_path, model=str(smollm2_dir), **settings) as core,
        SyncEngineClient(core.run_dir.core_socket, name="test") as client,
    ):
        welcome = client.wait_ready(60)
    for name in ("device", "dtype", "num_blocks", "block_size", "max_model_len"):
        assert result[name] == getattr(welcome, name), name
