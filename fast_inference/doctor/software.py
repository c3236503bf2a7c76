"""Checks of the software: Python and the packages in their bounds, the compiler, and the kernels that it makes."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, requires, version

from engine_core.model.kernels.build import KernelsUnavailableError, find_compiler, is_built, kernel_library
from fast_inference.doctor.finding import Finding, Findings, Tell, fail, ok, warn
from fast_inference.settings import Settings

_PACKAGE = "fast-inference"
_INSTALL_COMPILER = "install g++ (Debian: apt install g++); without it plain torch computes, several times slower"
_SHOWN = ("torch", "transformers", "tokenizers", "pyzmq", "fastapi", "uvicorn")
"""Packages whose versions people ask for."""


def check_software(settings: Settings, tell: Tell) -> Findings:
    """Packages, compiler and kernels."""
    yield from _packages()
    if settings.device == "cuda":
        return
    if not settings.cpu_kernels:
        yield warn(
            "kernels", "turned off: --no-cpu-kernels", "leave the flag out, unless you look for an error in them"
        )
        return
    yield from _kernels(tell)


def _packages() -> Findings:
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires(_PACKAGE) or () if "extra ==" not in line]
    except PackageNotFoundError:
        yield warn("packages", f"{_PACKAGE} is not installed, it runs from a checkout", "run scripts/install")
        return
    wrong = []
    for requirement in wanted:
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield fail(requirement.name, "is missing", f"pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(requirement.name)
            yield warn(requirement.name, f"{found} is not {requirement.specifier}", f"pip install '{requirement}'")
    python = f"Python {platform.python_version()}"
    shown = ", ".join(f"{name} {version(name)}" for name in _SHOWN if name not in wrong and _is_here(name))
    yield ok("packages", f"{python}, {shown}")


def _is_here(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _kernels(tell: Tell) -> Findings:
    try:
        compiler = find_compiler()
    except KernelsUnavailableError as error:
        yield warn("compiler", str(error), _INSTALL_COMPILER)
        return
    yield _compiler(compiler)
    was_built = is_built()
    if not was_built:
        tell("compiling the CPU kernels")
    try:
        library = kernel_library()
    except KernelsUnavailableError as error:
        fix = "without them plain torch computes, several times slower: free the folder or mend the compiler"
        yield warn("kernels", " ".join(str(error).split())[:300], fix)
        return
    yield ok("kernels", f"{'in the cache' if was_built else 'compiled just now'}: {library}")


def _compiler(path: str) -> Finding:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return warn("compiler", f"{path} cannot be run: {error}", _INSTALL_COMPILER)
    lines = done.stdout.splitlines()
    return ok("compiler", f"{path}: {lines[0] if lines else 'no version'}")
