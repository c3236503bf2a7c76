"""Compiles the kernels for this processor and keeps the library in the cache folder, named by what it was made of.

Invariant: a library in the cache is whole (it is renamed into place), and its name is a hash of the sources, the flags,
the compiler's version and the processor's features. Next: `bindings.py`, which loads it.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCE_DIR = Path(__file__).parent / "src"
FLAGS = (
    *("-std=c++17", "-O2", "-ftree-vectorize", "-march=native", "-fno-math-errno", "-fno-trapping-math"),
    *("-fopenmp", "-shared", "-fPIC", "-Wall", "-Wextra"),
)
TIMEOUT_S = 120.0


class KernelsUnavailableError(RuntimeError):
    """The kernels cannot be compiled here; the message says why."""


@cache
def kernel_library(cache_dir: Path | None = None) -> Path:
    """The compiled library; makes it if there is none yet.

    Args:
        cache_dir: where libraries are kept; `$XDG_CACHE_HOME/fast-inference/kernels` where None.

    Raises:
        KernelsUnavailableError: there is no compiler, or it fails.
    """
    compiler = find_compiler()
    library = _library_path(compiler, cache_dir)
    if not library.is_file():
        try:
            folder = library.parent
            folder.mkdir(parents=True, exist_ok=True)
            _compile(compiler, library)
        except OSError as error:
            raise KernelsUnavailableError(f"cannot write {library}: {error.strerror}") from error
    return library


def is_built(cache_dir: Path | None = None) -> bool:
    """True if `kernel_library` has nothing to compile; raises as it does where there is no compiler."""
    return _library_path(find_compiler(), cache_dir).is_file()


def find_compiler() -> str:
    """Path of the C++ compiler: that of `$CXX`, else g++, else c++.

    Raises:
        KernelsUnavailableError: there is none.
    """
    for name in (os.environ.get("CXX"), "g++", "c++"):
        path = shutil.which(name) if name else None
        if path:
            return path
    raise KernelsUnavailableError("no C++ compiler was found (g++)")


def _library_path(compiler: str, cache_dir: Path | None) -> Path:
    folder = (
        cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fast-inference" / "kernels"
    )
    return folder / f"decoder-{_content_hash(compiler)}.so"


def _compile(compiler: str, library: Path) -> None:
    logger.info("compiling %s", library)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [compiler, *FLAGS, "-o", str(made), str(SOURCE_DIR / "decoder.cpp")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise KernelsUnavailableError(f"{compiler} took more than {TIMEOUT_S:.0f} s") from error
        if done.returncode != 0:
            raise KernelsUnavailableError(f"{compiler} failed: {done.stderr.strip()[-2000:]}")
        made.rename(library)


def _content_hash(compiler: str) -> str:
    """Of all that the library depends on; a cache folder may be shared by machines with different processors."""
    parts = [path.read_bytes() for path in sorted(SOURCE_DIR.iterdir()) if path.suffix in (".h", ".cpp")]
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    parts += [" ".join(FLAGS).encode(), version, _processor().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _processor() -> str:
    """Model and features of the processor, as the kernel says."""
    wanted = ("model name", "flags", "Features", "CPU part")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
