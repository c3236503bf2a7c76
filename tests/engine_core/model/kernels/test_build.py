"""The library is compiled once, and what stands in the way is said."""

import pytest

from engine_core.model.kernels.build import KernelsUnavailableError, kernel_library


def test_a_compiled_library_is_found_again(tmp_path):
    library = kernel_library(tmp_path)
    made_at = library.stat().st_mtime_ns
    kernel_library.cache_clear()
    assert kernel_library(tmp_path) == library
    assert library.stat().st_mtime_ns == made_at
    assert [path.name for path in tmp_path.iterdir()] == [library.name]


def test_without_a_compiler_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(KernelsUnavailableError, match=r"compiler was found"):
        kernel_library(tmp_path / "cache")


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(KernelsUnavailableError, match="no such luck"):
        kernel_library(tmp_path / "cache")
