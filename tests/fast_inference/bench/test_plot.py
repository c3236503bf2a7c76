"""Plots are pictures, or one line says what is missing."""

import sys

import pytest

from fast_inference.bench.plot import draw_plot, require_matplotlib
from fast_inference.bench.workload import Load
from ipc.errors import ConfigError
from tests.fast_inference.bench.test_report import measurement


@pytest.mark.parametrize("levels", [[{"concurrency": 1}, {"concurrency": 8}], [{"request_rate": 2.5}]])
def test_a_plot_is_a_png(tmp_path, levels):
    path = tmp_path / "plot.png"
    loads = [Load(2, input_len, 2, **level) for level in levels for input_len in (10, 20)]
    draw_plot([measurement(name, 0.5, load=load) for load in loads for name in ("a", "b")], path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_plot_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot write"):
        draw_plot([measurement("a", 0.5)], tmp_path)


def test_without_matplotlib_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'fast-inference\[bench\]'"):
        require_matplotlib()
