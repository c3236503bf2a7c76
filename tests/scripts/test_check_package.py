"""The package can be built, installed and served far from the checkout; what lacks a file is found out."""

import subprocess
import sys
import zipfile

import pytest

from ipc.version import __version__
from scripts.check_package import NEEDED, PackageError, check_wheel, tracked_files
from tests.documents import ROOT


def make_wheel(folder, names, version=__version__):
    wheel = folder / "fast_inference.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in names:
            archive.writestr(name, "")
        metadata = f"Name: fast-inference\nVersion: {version}\nLicense-Expression: MIT\n"
        archive.writestr(f"fast_inference-{__version__}.dist-info/METADATA", metadata)
    return wheel


def test_it_is_built_installed_and_serves_outside_the_checkout():
    command = [sys.executable, ROOT / "scripts/check_package.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"built fast_inference-{__version__}.tar.gz and fast_inference-{__version__}-py3-none-any.whl",
        "installed",
        "served fake and stopped",
    ]


def test_a_wheel_with_all_files_passes(tmp_path):
    check_wheel(make_wheel(tmp_path, {*NEEDED, *tracked_files()}))


@pytest.mark.parametrize("name", ["engine_core/model/kernels/src/decoder.cpp", "frontend/docs_assets/redoc.html"])
def test_a_file_that_is_missing_is_named(tmp_path, name):
    with pytest.raises(PackageError, match=name):
        check_wheel(make_wheel(tmp_path, {*NEEDED, *tracked_files()} - {name}))


def test_a_file_outside_our_packages_is_named(tmp_path):
    with pytest.raises(PackageError, match="tests/conftest"):
        check_wheel(make_wheel(tmp_path, {*NEEDED, *tracked_files(), "tests/conftest.py"}))


def test_another_version_is_refused(tmp_path):
    with pytest.raises(PackageError, match="another version"):
        check_wheel(make_wheel(tmp_path, {*NEEDED, *tracked_files()}, version="9"))
