"""scripts/check_namespaces.py: two namespaces with a link that is cut; as small as it says anything."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/check_namespaces.py"
FLAGS = ["--cores", "1", "--streams", "6", "--tokens", "60", "--step-ms", "10", "--cuts", "drop:1"]


def run(*arguments, **environment):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env={**os.environ, **environment})


def can_make_namespaces() -> bool:
    """As a user may who is root in a container with all rights."""
    probe = ["unshare", "--net", "--mount", "true"]
    return subprocess.run(probe, capture_output=True).returncode == 0 and os.geteuid() == 0


def test_a_cut_link_costs_time_and_nothing_else():
    """Where there can be no namespaces, it says so in one line; a proxy in a process shows the same everywhere
    (tests/integration/test_remote_cores.py)."""
    done = run("cut", *FLAGS)
    if can_make_namespaces():
        assert done.returncode == 0, done.stdout + done.stderr
        assert (done.stdout.count(" ok\n"), "MISSED" in done.stdout) == (6, False)
    else:
        assert done.returncode == 1
        assert done.stderr.startswith("error: cannot make network namespaces: ")


def test_without_iproute2_it_says_what_to_install():
    done = run("cut", PATH=str(Path(sys.executable).parent))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "apt-get install iproute2" in done.stderr


def test_a_part_that_there_is_not_is_refused():
    done = run("cuts")
    assert (done.returncode, "no part is called cuts" in done.stderr) == (2, True)
