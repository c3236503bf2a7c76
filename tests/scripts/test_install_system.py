"""scripts/install-system: installs what is missing, starts no service, and says what it cannot do."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/install-system"
USED = ("bash", "env", "rm", "chmod")


@pytest.fixture
def programs(tmp_path):
    """A folder for PATH with what the script uses, and an `apt-get` that notes its arguments and the policy."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in USED:
        (folder / name).symlink_to(shutil.which(name))
    add(folder, "id", "echo 0")
    add(folder, "apt-get", f'echo "$@" >>{tmp_path}/apt; {tmp_path}/policy || echo "policy: $?" >>{tmp_path}/apt')
    return folder


def add(folder: Path, name: str, line: str) -> None:
    (folder / name).write_text(f"#!{shutil.which('bash')}\n{line}\n")
    (folder / name).chmod(0o755)


def run(programs: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(programs), "POLICY_FILE": str(programs.parent / "policy")}
    return subprocess.run([str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=30)


def test_where_all_is_there_nothing_is_done(programs):
    for name in ("chromium", "nginx", "promtool", "systemd-analyze"):
        add(programs, name, "true")
    done = run(programs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (programs.parent / "apt").exists()


def test_what_is_missing_is_installed_and_no_service_starts(programs):
    add(programs, "nginx", "true")
    done = run(programs)
    assert done.returncode == 0
    assert "installing chromium fonts-dejavu-core prometheus systemd" in done.stderr
    line = "install -qq -y --no-install-recommends chromium fonts-dejavu-core prometheus systemd"
    assert (programs.parent / "apt").read_text().splitlines() == [line, "policy: 101"]
    assert not (programs.parent / "policy").exists()


def test_a_policy_file_of_the_machine_is_left_alone(programs):
    policy = programs.parent / "policy"
    policy.write_text("#!/bin/sh\nexit 104\n")
    policy.chmod(0o755)
    assert run(programs).returncode == 0
    assert policy.read_text() == "#!/bin/sh\nexit 104\n"


def test_who_is_not_root_is_told_what_to_install(programs):
    add(programs, "id", "echo 1000")
    add(programs, "nginx", "true")
    done = run(programs)
    assert done.returncode == 1
    assert done.stderr == (
        "error: tests need chromium promtool systemd-analyze: only root can install them "
        "(on Debian: apt-get install chromium fonts-dejavu-core prometheus systemd)\n"
    )


def test_a_machine_without_apt_get_is_told_too(programs):
    (programs / "apt-get").unlink()
    done = run(programs)
    assert done.returncode == 1
    assert "there is no apt-get here" in done.stderr


def test_packages_that_cannot_be_had_are_an_error(programs):
    add(programs, "apt-get", "exit 100")
    done = run(programs)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: tests need chromium ")
