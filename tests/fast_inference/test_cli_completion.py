"""The completion script, loaded by bash itself."""

import subprocess

import pytest

from tests.fast_inference.test_cli import ROOT, call

COMPLETE = r"""
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMPREPLY=()
function=$(complete -p fast-inference | sed 's/.*-F \([^ ]*\).*/\1/')
"$function" fast-inference "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "fast-inference"
    done = call("completion", "bash")
    assert done.returncode == 0, done.stderr
    path.write_text(done.stdout)
    return path


def complete(script, *words, **environment):
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", str(script), "fast-inference", *words],
        cwd=ROOT, env={"PATH": "/usr/bin:/bin", "HOME": str(script.parent), **environment},
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return [word.strip() for word in done.stdout.splitlines()]


def test_verbs(script):
    assert complete(script, "pl") == ["plan"]


def test_flags_of_a_verb(script):
    assert complete(script, "serve", "--max-num") == ["--max-num-seqs", "--max-num-batched-tokens"]


def test_values_of_a_flag(script):
    assert complete(script, "serve", "--dtype", "") == ["auto", "float32", "bfloat16"]


def test_models_by_name_and_of_the_hub(script, tmp_path):
    (tmp_path / "models--org--tiny").mkdir()
    assert complete(script, "serve", "smol") == ["smollm2-135m-instruct"]
    assert complete(script, "serve", "--model", "org/t", HF_HUB_CACHE=str(tmp_path)) == ["org/tiny"]


def test_files_where_a_file_is_taken(script):
    assert complete(script, "serve", "--config", "configs/defa") == ["configs/default.yaml"]
    assert "configs" in [name.rstrip("/") for name in complete(script, "status", "--run-dir", "conf")]


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_a_script(shell):
    done = call("completion", shell)
    assert done.returncode == 0
    assert "fast-inference" in done.stdout
