"""What goes wrong in one request of a batch ends that request and changes nothing for the others, with SmolLM2."""

from dataclasses import replace
from pathlib import Path

import pytest

from ipc.errors import FastInferenceError
from ipc.sampling_params import SamplingParams
from ipc.structured_output import GrammarKind, StructuredOutput
from tests import faulty_core
from tests.processes import core_process

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]

FAULTY_CORE = Path(faulty_core.__file__)
BECOMES_TOO_COMPLEX = StructuredOutput(GrammarKind.REGEX, "([a-z]{1,200}x?){1,200}")
"""It compiles; after some 85 letters there are more ways to read the answer than llguidance may look at."""
POSITIONS = {3: "nan", 8: "exception", 11: "grammar"}
"""Where among the sixteen requests the three stand that go wrong."""


def params_of(number, *, seed=None, structured_output=None):
    fields = {"temperature": 1.0, "top_p": 0.9} if number % 3 else {"temperature": 0.0}
    if structured_output is not None:
        fields["structured_output"] = structured_output
    return SamplingParams(max_tokens=12, ignore_eos=True, seed=seed or number, **fields)


def faulty_params(number):
    match POSITIONS[number]:
        case "nan":
            return params_of(number, seed=faulty_core.SEED_OF_NAN_LOGITS)
        case "exception":
            return params_of(number, seed=faulty_core.SEED_OF_AN_EXCEPTION)
    return replace(params_of(number, structured_output=BECOMES_TOO_COMPLEX), max_tokens=300, min_tokens=300)


def run_sixteen(client, *, with_faults):
    """Token ids of each request, or the code of its error."""
    requests = [
        client.submit(
            [1000 + 37 * number + position for position in range(10 + number)],
            faulty_params(number) if with_faults and number in POSITIONS else params_of(number),
        )
        for number in range(16)
    ]
    results = []
    for request in requests:
        try:
            results.append(client.collect(request).token_ids)
        except FastInferenceError as error:
            results.append(error.code)
    return results


def test_three_faulty_requests_of_sixteen_fail_alone(tmp_path, smollm2_dir):
    settings = {"model": str(smollm2_dir), "dtype": "float32", "threads": 1, "num_blocks": 128, "max_model_len": 512}
    settings["enable_prefix_caching"] = False
    with core_process(tmp_path, command=[str(FAULTY_CORE)], **settings) as core:
        client = core.connect()
        clean = run_sixteen(client, with_faults=False)
        faulty = run_sixteen(client, with_faults=True)
        assert core.process.poll() is None
    assert {number: faulty[number] for number in POSITIONS} == {
        3: "nan_logits",
        8: "sampler_error",
        11: "grammar_error",
    }
    assert [faulty[n] for n in range(16) if n not in POSITIONS] == [clean[n] for n in range(16) if n not in POSITIONS]
