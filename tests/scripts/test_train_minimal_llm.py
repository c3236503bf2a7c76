"""The training script: its model is the one that the format describes, it learns, and it saves what `serve` takes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine_core.model.torch_checkpoint import read_torch_checkpoint
from tests.minimal_llm import VARIANTS, MinimalLLMConfig, reference_logits, training_script

SCRIPT = Path(__file__).parents[2] / "scripts/train_minimal_llm.py"
SIZES = ["--d-model", "32", "--n-heads", "4", "--n-layers", "2", "--d-ff", "48", "--max-seq-len", "32"]


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    with training_script() as module:
        yield module


@pytest.mark.parametrize("generation", VARIANTS)
def test_the_model_computes_what_the_format_describes(script, generation):
    assert script.ROPES == VARIANTS
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 2, "d_ff": 48, "max_seq_len": 32, "dropout": 0.1}
    config = script.MinimalLLMConfig(**sizes, vocab_size=50, n_kv_heads=2 if generation == "C" else None)
    torch.manual_seed(1)
    model = script.MinimalLLM(config, generation).eval()
    token_ids = torch.randint(50, (20,))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        logits = model(token_ids[None])[0]
    expected = reference_logits(generation, MinimalLLMConfig(**vars(config)), model.state_dict(), token_ids)
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_it_learns_and_saves_a_checkpoint_with_its_tokenizer(tmp_path):
    (tmp_path / "text.txt").write_text("One two three four five six seven.\n" * 40)
    argv = [sys.executable, str(SCRIPT), str(tmp_path / "text.txt"), "--output", str(tmp_path / "models/m.pt"), *SIZES]
    argv += ["--generation", "C", "--steps", "30", "--threads", "1", "--vocab-size", "280", "--report-every", "30"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    first, last = map(float, re.findall(r"^step \d+/30  loss ([\d.]+)  [\d,]+ tokens/s$", done.stdout, re.MULTILINE))
    assert last < first - 1
    assert done.stdout.endswith(f"serve it: scripts/serve {tmp_path}/models/m.pt\n")
    assert {path.name for path in (tmp_path / "models").iterdir()} == {
        "m.pt",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    checkpoint = read_torch_checkpoint(tmp_path / "models/m.pt")
    assert (checkpoint["config"].class_name, checkpoint["step"]) == ("__main__.MinimalLLMConfig", 30)
    assert checkpoint["config"].fields["n_kv_heads"] == 2


def test_a_text_that_is_too_short_is_one_line(script, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("a")
    assert script.main([str(tmp_path / "text.txt"), "--output", str(tmp_path / "m.pt")]) == 1
    assert re.fullmatch(r"error: .*too little to learn from\n", capsys.readouterr().err)
