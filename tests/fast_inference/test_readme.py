"""What the README and the other documents promise exists."""

import re
import shlex
from pathlib import Path

import pytest

from fast_inference.cli_openai import _parser as cli_openai_parser
from fast_inference.flags import SECTIONS, flag_name
from fast_inference.ready_message import example_request
from fast_inference.settings import resolve_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def lines_of(text: str) -> list[str]:
    """Commands that are one line each, without their comments."""
    joined = "\n".join(blocks("bash", text)).replace("\\\n", " ")
    return [command for line in joined.splitlines() if (command := line.partition(" #")[0].strip())]


def setting_flags() -> set[str]:
    return {flag_name(name) for section in SECTIONS for name in section.model_fields} | {"--config", "--print-config"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files(document):
    text = (ROOT / document).read_text()
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    base = (ROOT / document).parent
    assert [target for target in targets if not (base / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_name_scripts_that_exist(document):
    scripts = set(re.findall(r"\bscripts/[\w.-]+", "\n".join(lines_of((ROOT / document).read_text()))))
    assert [script for script in sorted(scripts) if not (ROOT / script).stat().st_mode & 0o111] == []


def test_the_first_two_commands_are_serve_and_test():
    assert lines_of(README)[:2] == ["scripts/serve", "scripts/test"]


def test_serve_commands_use_flags_that_exist():
    lines = [line for document in DOCUMENTS for line in lines_of((ROOT / document).read_text())]
    flags = {flag for line in lines if "scripts/serve" in line for flag in re.findall(r" (--[\w-]+)", line)}
    assert len(flags) > 5
    assert flags <= setting_flags()


def test_the_configuration_table_names_flags_and_their_defaults():
    rows = re.findall(r"^\| (`--[^|]+) \| ([^|]+) \|", README, re.MULTILINE)
    settings = resolve_settings({})
    assert len(rows) > 5
    for cell, defaults in rows:
        flags = re.findall(r"`(--[a-z-]+)`", cell.partition("(")[0])
        assert {flag.replace("--no-", "--") for flag in flags} <= setting_flags()
        for flag, default in zip(flags, re.findall(r"`([^`$]+)`", defaults), strict=False):
            if defaults.startswith("`"):
                assert str(getattr(settings, flag[2:].replace("-", "_"))) == default


def test_cli_openai_flags_are_those_of_the_readme():
    listed = re.search(r"cli_openai` takes `([^`]+)`", README)
    assert listed
    assert set(listed[1].split()) == set(cli_openai_parser()._option_string_actions) - {"-h", "--help"}


def test_the_curl_command_is_the_one_that_is_printed_at_the_start():
    first, *_ = re.findall(r"^\$ (curl .*)$", README, re.MULTILINE)
    assert shlex.split(first) == shlex.split(example_request("http://127.0.0.1:8000", "smollm2-135m-instruct"))


def test_the_table_of_others_has_the_measured_numbers():
    head = "| server | 1 | 8 | 32 | 64 |"
    performance = (ROOT / "docs/performance.md").read_text()
    tables = [text[text.index(head) :].partition("\n\n")[0] for text in (README, performance)]
    assert tables[0] == tables[1]
    assert tables[0].count("\n") > 5


@pytest.mark.parametrize("source", blocks("python"))
def test_python_examples_compile(source):
    compile(source, "README.md", "exec")
