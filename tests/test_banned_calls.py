"""Nothing in this repository reads data by running it: not the server, not its scripts, not its tests."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BANNED_MODULES = frozenset(
    {"pickle", "cPickle", "_pickle", "marshal", "dill", "cloudpickle", "shelve", "joblib", "jsonpickle"}
)
BANNED_CALLS = frozenset({"eval", "exec", "__import__"})
BANNED_ATTRIBUTES = frozenset({"recv_pyobj", "send_pyobj", "unsafe_load", "full_load", "read_pickle", "to_pickle"})
MAKES_PAYLOADS = "tests/engine_core/model/test_torch_checkpoint.py"
"""Makes what must be refused."""


def python_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    files = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in files if path.suffix == ".py" and path.exists()]


def offences(source: str, name: str) -> Iterator[str]:
    """What a file does that none may do, with the line."""
    for node in ast.walk(ast.parse(source)):
        for offence in _offences_of(node):
            if name == MAKES_PAYLOADS:
                continue
            yield f"{name}:{getattr(node, 'lineno', 0)}: {offence}"


def _offences_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in BANNED_MODULES)
    elif isinstance(node, ast.ImportFrom):
        if (node.module or "").partition(".")[0] in BANNED_MODULES:
            yield str(node.module)
    elif isinstance(node, ast.Attribute):
        if node.attr in BANNED_ATTRIBUTES:
            yield node.attr
    elif isinstance(node, ast.Call):
        yield from _offences_of_call(node)


def _offences_of_call(call: ast.Call) -> Iterator[str]:
    function = ast.unparse(call.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if function in BANNED_CALLS:
        yield function
    if function in ("torch.load", "torch.serialization.load", "torch.jit.load", "torch.hub.load"):
        yield function
    if function == "yaml.load" or (function.startswith("yaml.") and "Unsafe" in function):
        yield function
    if keywords.get("shell", "False") != "False":
        yield f"shell={keywords['shell']}"
    if function in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"):
        yield function
    if keywords.get("trust_remote_code", "False") != "False":
        yield "trust_remote_code"
    if keywords.get("allow_pickle", "False") != "False":
        yield "allow_pickle"


def test_no_file_does_any_of_it():
    files = python_files()
    assert len(files) > 300
    found = [line for path in files for line in offences(path.read_text(), str(path.relative_to(ROOT)))]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import os, marshal",
        "from dill import load",
        "eval('1')",
        "exec('x = 1')",
        "torch.load(path, weights_only=False)",
        "torch.load(path)",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=flag)",
        "os.system('ls')",
        "socket.recv_pyobj()",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "numpy.load(x, allow_pickle=True)",
    ],
)
def test_each_of_them_would_be_found(source):
    assert list(offences(source, "a.py"))


@pytest.mark.parametrize("source", ["yaml.safe_load(text)", "re.compile('a')", "run(shell=False)", "model.eval()"])
def test_what_only_looks_like_it_is_fine(source):
    assert list(offences(source, "a.py")) == []
