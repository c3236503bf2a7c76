"""docs/configuration.md is what the settings say."""

import subprocess
import sys

from fast_inference.flags import SECTIONS, environment_name, flag_name
from fast_inference.settings import Settings
from tests.documents import ROOT

SCRIPT = ROOT / "scripts/generate_config_docs.py"
DOCUMENT = (ROOT / "docs/configuration.md").read_text()


def test_the_document_is_up_to_date():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], timeout=60, check=False)
    assert done.returncode == 0, "run scripts/generate_config_docs.py"


def test_every_setting_has_one_row_with_flag_variable_and_meaning():
    rows = [line for line in DOCUMENT.splitlines() if line.startswith("| `--")]
    fields = {name: field for section in SECTIONS for name, field in section.model_fields.items()}
    assert set(fields) == set(Settings.model_fields) - {"config"}
    assert len(rows) == len(fields)
    for name, field in fields.items():
        [row] = [row for row in rows if f"| `{environment_name(name)}` |" in row]
        assert f"`{flag_name(name)}`" in row or f"`--no-{flag_name(name)[2:]}`" in row
        assert field.description
        assert field.description.partition("|")[0] in row
