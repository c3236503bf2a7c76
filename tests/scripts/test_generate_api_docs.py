"""docs/api.md is what the code says."""

import subprocess
import sys
from pathlib import Path

from frontend.openai.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    RerankRequest,
    ScoreRequest,
)
from frontend.openai.unsupported import HARMLESS_PARAMETERS, UNSUPPORTED_PARAMETERS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/generate_api_docs.py"


def test_the_document_is_up_to_date():
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], timeout=60, check=False)
    assert done.returncode == 0, "run scripts/generate_api_docs.py"


def test_every_field_has_a_line_with_a_meaning():
    document = (ROOT / "docs/api.md").read_text()
    names = {*UNSUPPORTED_PARAMETERS, *HARMLESS_PARAMETERS}
    for body in (ChatCompletionRequest, CompletionRequest, EmbeddingRequest, ScoreRequest, RerankRequest):
        names |= body.model_fields.keys()
        assert all(field.description for field in body.model_fields.values())
    assert [name for name in sorted(names) if f"| `{name}` |" not in document] == []
