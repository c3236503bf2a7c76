"""configs/systemd: systemd takes the unit, and what it says of our program is so."""

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fast_inference.cli_reload import add_reload
from fast_inference.core_supervisor import CORE_GRACE_S
from fast_inference.flags import FlagParser, environment_name
from fast_inference.launcher import _FRONTEND_GRACE_S
from fast_inference.settings import Settings, resolve_settings

UNIT = Path(__file__).parents[2] / "configs/systemd/fast-inference.service"
PROGRAM = "/opt/fast-inference/.venv/bin/fast-inference"
MAX_EXPOSURE = 2.0


class Service(configparser.RawConfigParser):
    """Keys as they are written; one that is there several times keeps all its values."""

    def __init__(self) -> None:
        super().__init__(strict=False, dict_type=_Lines)
        self.optionxform = str
        self.read_string(UNIT.read_text())

    def all(self, key: str) -> list[str]:
        return self["Service"][key].split("\n")


class _Lines(dict):
    def __setitem__(self, key, value):
        if isinstance(value, list) and key in self:
            self[key].extend(value)
        else:
            super().__setitem__(key, value)


@pytest.fixture(scope="module")
def service() -> Service:
    return Service()


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|min)", text).groups()
    return int(number) * {"s": 1, "min": 60}[unit]


def test_systemd_verifies_it(tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(PROGRAM, sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_is_little_exposed():
    argv = ["systemd-analyze", "security", "--offline=true", f"--threshold={int(MAX_EXPOSURE * 10)}", str(UNIT)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_it_waits_for_longer_than_a_drain_takes(service):
    longest_s = Settings.model_fields["drain_timeout"].default + _FRONTEND_GRACE_S + CORE_GRACE_S
    assert seconds(service["Service"]["TimeoutStopSec"]) > longest_s


def test_its_variables_are_settings(service):
    known = {environment_name(field) for field in Settings.model_fields}
    names = [line.partition("=")[0] for line in service.all("Environment")]
    assert [name for name in names if name.startswith("FAST_INFERENCE_") and name not in known] == []
    assert {"FAST_INFERENCE_API_KEY_FILE", "FAST_INFERENCE_RUN_DIR", "FAST_INFERENCE_STATE_DIR"} <= set(names)


def test_its_commands_are_understood(service):
    program, command, *flags = shlex.split(service["Service"]["ExecStart"])
    assert (program, command, flags[0]) == (PROGRAM, "serve", "--config")
    assert resolve_settings({"config": UNIT.parents[1] / "default.yaml"})
    program, command, *flags = shlex.split(service["Service"]["ExecReload"])
    parser = FlagParser()
    add_reload(parser.add_subparsers())
    assert (program, parser.parse_args([command, *flags]).run_dir) == (PROGRAM, Path("%t/fast-inference/server"))
