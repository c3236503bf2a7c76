"""What becomes of a run of `scripts/test` in which a test ends its process, or never ends."""

import re
import subprocess
import sys

from tests.processes import ROOT

OPTIONS = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
GOOD = "import time\n" + "".join(f"def test_{number}():\n    time.sleep(0.1)\n" for number in range(10))
HANGS = """
import threading

def test_hangs():
    threading.Event().wait()

def test_behind_it():
    pass
"""
HANGS_IN_C = """
import signal

def test_hangs_in_c():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    signal.sigwait([signal.SIGUSR1])
"""
ABORTS = """
import os

def test_aborts():
    os.abort()

def test_behind_it():
    pass
"""


def run(folder, options=(), **files):
    """The output of a run of pytest with our settings on these files, whose exit status says that a test failed."""
    for name, content in files.items():
        (folder / f"test_{name}.py").write_text(content)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    process = subprocess.run(
        [*command, f"--rootdir={folder}", *OPTIONS, *options, str(folder)], capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 1, process.stdout + process.stderr
    return process.stdout


def test_a_test_that_ends_its_process_ends_the_run_and_is_named(tmp_path):
    output = run(tmp_path, bad=ABORTS, good=GOOD, more=GOOD, rest=GOOD)
    assert "crashed while running 'test_bad.py::test_aborts'" in output
    assert "1 failed" in output


def test_a_test_that_hangs_fails_and_the_others_go_on(tmp_path):
    output = run(tmp_path, ["-o", "timeout=1"], bad=HANGS, good=GOOD)
    assert re.search(r"^FAILED \S*test_bad\.py::test_hangs\b", output, re.MULTILINE)
    assert "Failed: Timeout (>1.0s)" in output
    assert "1 failed, 11 passed" in output


def test_a_test_that_no_signal_interrupts_is_named_too(tmp_path):
    output = run(tmp_path, ["-o", "timeout=1", "-o", "faulthandler_timeout=2"], bad=HANGS_IN_C, good=GOOD)
    assert "crashed while running 'test_bad.py::test_hangs_in_c'" in output
