"""The command lines as processes: exit statuses and single lines."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from fast_inference import __version__
from fast_inference.cli import main

ROOT = Path(__file__).parents[2]


def call(*argv: str, module: str = "fast_inference", **environment: str) -> subprocess.CompletedProcess[str]:
    return call_python("-m", module, *argv, **environment)


def call_python(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("FAST_INFERENCE_")}
    return subprocess.run(
        [sys.executable, *argv],
        cwd=ROOT,
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_version():
    done = call("--version")
    assert (done.returncode, done.stdout) == (0, f"fast-inference {__version__}\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["serve --print-config", "completion bash"])
def test_a_reader_that_has_left_is_status_141_and_no_word(command, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    argv = [sys.executable, "-m", "fast_inference", *command.split()]
    done = subprocess.run(argv, cwd=ROOT, env=env, stdout=writer, stderr=subprocess.PIPE, timeout=30, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_line(unbuffered):
    argv = [sys.executable, "-m", "fast_inference", "serve", "--print-config"]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(argv, cwd=ROOT, env=env, stdout=full, stderr=subprocess.PIPE, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, b"error: cannot write the output: No space left on device\n")


_INTERRUPTED_IMPORT = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, *others):
        if name == "%s":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
sys.argv = ["fast-inference", "serve", "--print-config"]
runpy.run_module("fast_inference", run_name="__main__")
"""


@pytest.mark.parametrize(("module", "status"), [("pydantic", -signal.SIGINT), ("pydantic_settings", 130)])
def test_ctrl_c_while_it_imports_leaves_no_trace(module, status):
    done = call_python("-c", _INTERRUPTED_IMPORT % module)
    assert (done.returncode, done.stderr) == (status, "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_streams_that_are_not_there_are_empty(closed):
    line = f"{sys.executable} -m fast_inference complete --url http://127.0.0.1:1 {closed}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, input=b"a", capture_output=True, timeout=30, check=False)
    told = b"" if "2>" in closed else b"error: nothing listens on http://127.0.0.1:1: is the server started?\n"
    assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.parametrize(
    "argv", [["complete", b"\xff"], ["chat", "--system", b"\xff"], ["complete", "a", "--stop", b"\xff"]]
)
def test_an_argument_that_is_no_text_is_wrong_usage(argv):
    argv = [sys.executable, "-m", "fast_inference", *argv]
    env = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, timeout=30, check=False)
    assert (done.returncode, b"is no UTF-8 text" in done.stderr) == (2, True), done.stderr


def test_the_version_is_kept_in_one_place():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["version"]["path"] == "ipc/version.py"
    sources = [
        path
        for package in ("ipc", "frontend", "engine_core", "fast_inference")
        for path in (ROOT / package).rglob("*.py")
    ]
    assert [path.name for path in sources if f'"{__version__}"' in path.read_text()] == ["version.py"]


HEAVY = ("torch", "transformers", "fastapi", "starlette", "zmq", "pydantic_settings", "rich", "prompt_toolkit", "yaml")
VERBS = (
    "serve", "chat", "complete", "run-batch", "pull", "models", "plan", "status", "doctor", "reload", "bench", "keys",
    "completion",
)  # fmt: skip


def test_help_imports_nothing_heavy():
    """In one process for all verbs: what one of them imports shows."""
    code = (
        "import contextlib, io, sys; from fast_inference.cli import main\n"
        f"for argv in [[], *([verb] for verb in {VERBS})]:\n"
        "    try:\n"
        "        with contextlib.redirect_stdout(io.StringIO()): main([*argv, '--help'])\n"
        "    except SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_lists_every_verb():
    done = call("--help")
    assert [line.split()[0] for line in done.stdout.splitlines() if re.match(r"    [a-z]", line)] == [*VERBS]


@pytest.mark.parametrize("verb", [*VERBS, "bench serve", "bench latency", "bench throughput"])
def test_help_of_each_verb_shows_what_each_flag_does_and_its_default(verb, capsys):
    with pytest.raises(SystemExit):
        main([*verb.split(), "--help"])
    options = re.split(r"\n(?=  -)", capsys.readouterr().out)[1:]
    assert options
    for option in options:
        text = " ".join(option.split("\n\n")[0].split())
        assert re.match(r"(-h, --help|--version)\b", text) or re.search(r"\((default|required)|\(default\)", text), text


def test_an_unknown_flag_is_status_2_and_names_the_nearest():
    done = call("serve", "--max-num-seq", "3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown argument --max-num-seq, did you mean --max-num-seqs?")


def test_an_unknown_command_is_status_2_and_names_the_nearest():
    done = call("serv")
    assert done.returncode == 2
    assert done.stderr == "error: no command serv, did you mean serve? (see fast-inference --help)\n"


def test_a_wrong_value_is_status_1_and_one_line():
    done = call("serve", "--block-size", "17")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: --block-size: must be a multiple of 16, not '17'\n"


def test_print_config_shows_what_a_start_would_use():
    done = call("serve", "fake", "--print-config", FAST_INFERENCE_FRONTENDS="5")
    assert done.returncode == 0
    assert {"model: fake", "frontends: 5", "port: 8000"} <= set(done.stdout.splitlines())


def test_a_wrong_model_is_status_1_and_one_line_in_less_than_five_seconds(tmp_path):
    started = time.monotonic()
    done = call("serve", "/no/such/model", "--port", "0", "--run-dir", str(tmp_path / "run"))
    assert time.monotonic() - started < 5
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "/no/such/model" in errors[0]
    assert "Traceback" not in done.stderr


def test_a_setting_without_effect_is_a_warning():
    done = call("serve", "/no/such/model", "--port", "0", "--fake-step-ms", "5")
    assert "warning: --fake-step-ms has an effect only with --model fake\n" in done.stderr


def test_settings_that_contradict_each_other_end_before_anything_is_loaded():
    done = call("serve", "fake", "--port", "0", "--max-num-batched-tokens", "16")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --max-num-batched-tokens (16) must be at least --max-num-seqs (64)")
    assert done.stderr.count("\n") == 1


def test_a_model_name_that_is_too_long_is_one_line():
    done = call("serve", "a" * 5000, "--port", "0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: no model 'aaa")
    assert "Traceback" not in done.stderr


def test_pull_of_an_unknown_name_is_status_1():
    done = call("pull", "no-such-name-at-all")
    assert done.returncode == 1
    assert "error: " in done.stderr


def test_the_launch_script_is_serve():
    done = subprocess.run(
        [sys.executable, "scripts/launch.py", "fake", "--print-config"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "model: fake" in done.stdout


@pytest.mark.parametrize("argv", [[], ["serv"], ["serve", "--port"]])
def test_wrong_usage_is_status_2(argv):
    assert call(*argv).returncode == 2


def test_a_printed_config_is_a_config_that_prints_the_same(tmp_path):
    flags = ("fake", "--api-key", "secret", "--allowed-origins", "https://a", "--queue-timeout", "1.5", "--no-docs")
    printed = call("serve", *flags, "--print-config", FAST_INFERENCE_FRONTENDS="5", FAST_INFERENCE_RUN_DIR="/r")
    (tmp_path / "config.yaml").write_text(printed.stdout)
    again = call("serve", "--config", str(tmp_path / "config.yaml"), "--print-config")
    assert again.returncode == 0, again.stderr
    assert again.stdout == printed.stdout
    assert "secret" not in printed.stdout


@pytest.mark.parametrize(
    ("argv", "environment", "message"),
    [
        (["--max-num-seq", "3"], {}, "unknown argument --max-num-seq, did you mean --max-num-seqs?"),
        ([], {"FAST_INFERENCE_MODL": "x"}, "FAST_INFERENCE_MODL is no setting, did you mean FAST_INFERENCE_MODEL?"),
        (["--config", "FILE"], {}, "unknown setting max-num-seq, did you mean max-num-seqs?"),
    ],
)
def test_what_is_no_setting_is_refused_with_the_nearest_whatever_says_it(tmp_path, argv, environment, message):
    (tmp_path / "file.yaml").write_text("max-num-seq: 3\n")
    argv = [str(tmp_path / "file.yaml") if arg == "FILE" else arg for arg in argv]
    done = call("serve", "fake", "--port", "0", *argv, **environment)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m fast_inference serve --print-config | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("host: 127.0.0.1\n", "")
