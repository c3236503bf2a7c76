"""What a beginning may be used for."""

from dataclasses import replace
from pathlib import Path

from engine_core.model.fake_runner import write_fake_tokenizer
from frontend.beginning import digest_of
from frontend.input_processor import EngineInput
from frontend.state import ServedModel
from frontend.tokenizer import FrontendTokenizer
from ipc.sampling_params import SamplingParams
from tests.factories import make_welcome


def test_its_digest_tells_model_adapter_prompt_and_sampling_apart(tmp_path: Path):
    write_fake_tokenizer(tmp_path)
    tokenizer = FrontendTokenizer.load(tmp_path)
    one, other = (ServedModel(make_welcome(model_fingerprint=name), tokenizer, ("m",)) for name in ("one", "other"))
    params = SamplingParams(max_tokens=5, temperature=0.5, seed=1)
    item = EngineInput([1, 2], params)
    asked = [
        (one, item, ""),
        (one, item, "sql"),
        (other, item, ""),
        (one, EngineInput([1, 3], params), ""),
        (one, EngineInput([1, 2], replace(params, temperature=0.6)), ""),
    ]
    assert len({digest_of(*parts) for parts in asked}) == len(asked)
    assert digest_of(one, EngineInput([1, 2], replace(params, seed=2)), "") == digest_of(one, item, "")
