#!/usr/bin/env python3
"""Usage: scripts/check_package.py [--full] [--model MODEL] [--keep FOLDER]

Builds the sdist, from it the wheel, looks into both, installs the wheel into a new virtual environment, and there, in
an empty folder outside the checkout, asks for the version, serves, chats and stops. Exit status 1 with a line where
anything of that fails. Dependencies are those of the interpreter that runs this; with --full they are installed anew,
as for somebody who has nothing (gigabytes). --model (fake) is what is served; --keep leaves both files in a folder.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ipc.version import __version__  # noqa: E402

NEEDED = (
    "ipc/version.py",
    "ipc/py.typed",
    "frontend/py.typed",
    "engine_core/py.typed",
    "fast_inference/py.typed",
    "frontend/docs_assets/swagger-ui-bundle.js.gz",
    "frontend/docs_assets/LICENSE.swagger-ui",
    "engine_core/model/kernels/src/decoder.cpp",
    f"fast_inference-{__version__}.dist-info/licenses/LICENSE",
    f"fast_inference-{__version__}.dist-info/entry_points.txt",
)
"""What a wheel must hold, beside all that lies in our packages."""
PACKAGES = ("frontend", "engine_core", "ipc", "fast_inference")
QUESTION = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, "model": "fast-inference-model"}


class PackageError(Exception):
    """Something is not as somebody who installs the package needs it."""


def build(folder: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    [sdist], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def tracked_files() -> set[str]:
    """What git knows of our packages."""
    listed = run("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES)
    return {name for name in listed.splitlines() if (ROOT / name).exists()}


def check_wheel(wheel: Path) -> None:
    """Raises PackageError where it lacks something, or has what does not belong there."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"fast_inference-{__version__}.dist-info/METADATA").decode()
    expect(not (missing := {*tracked_files(), *NEEDED} - names), f"{wheel.name} lacks {sorted(missing)[:5]}")
    foreign = {name for name in names if name.split("/")[0] not in PACKAGES and ".dist-info/" not in name}
    expect(not foreign, f"{wheel.name} has {sorted(foreign)[:5]}")
    expect(f"\nVersion: {__version__}\n" in metadata, f"{wheel.name} has another version")
    expect("\nLicense-Expression: MIT\n" in metadata, f"{wheel.name} says nothing of its license")


def check_sdist(sdist: Path) -> None:
    """Raises PackageError where one could not work with it as with a checkout."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "configs/default.yaml", "scripts/serve"}
    wanted |= {"docs/quickstart.md", "examples/custom_model.py", "tests/conftest.py", *tracked_files()}
    expect(not (missing := wanted - names), f"{sdist.name} lacks {sorted(missing)[:5]}")


def install(wheel: Path, folder: Path, *, with_dependencies: bool) -> Path:
    """A new environment with the wheel in it; returns its folder of programs."""
    run(sys.executable, "-m", "venv", *([] if with_dependencies else ["--without-pip"]), folder)
    python = folder / "bin/python"
    if with_dependencies:
        run(python, "-m", "pip", "install", "-q", wheel, env=clean_environment())
    else:
        [packages] = folder.glob("lib/python*/site-packages")
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = (sys.executable, "-m", "pip", "--python", python)
        run(*pip, "install", "-q", "--no-deps", "--no-index", "--ignore-installed", wheel)
    return folder / "bin"


def check_installed(programs: Path, folder: Path, model: str) -> None:
    """Raises PackageError where the program does not work far from the checkout."""
    environment = clean_environment() | {"TMPDIR": str(folder)}
    program = programs / "fast-inference"
    where = run(programs / "python", "-c", "import ipc; print(ipc.__file__)", cwd=folder, env=environment)
    expect(where.startswith(str(programs.parent)), f"the code comes from {where}")
    told = run(program, "--version", cwd=folder, env=environment)
    expect(told == f"fast-inference {__version__}\n", f"--version says {told!r}")
    command = [program, "serve", model, "--port", "0", "--run-dir", folder / "run", "--threads", "1"]
    with (folder / "stderr").open("w") as stderr:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        expect(line.startswith("ready: "), f"no ready line; stderr: {(folder / 'stderr').read_text()}")
        url = line.split()[1]
        answer = json.loads(fetched(f"{url}/v1/chat/completions", QUESTION))
        expect(answer["usage"]["completion_tokens"] > 0, f"no answer but {answer}")
        expect(b"swagger" in fetched(f"{url}/docs"), "/docs is not there")
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    expect(server.returncode == 0, f"the server ended with {server.returncode}")


def clean_environment() -> dict[str, str]:
    """Of somebody who has neither set Python's paths nor our settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FAST_INFERENCE_"))}


def fetched(url: str, body: object = None) -> bytes:
    """What a server of this machine answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        content: bytes = response.read()
    return content


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What a command prints; raises PackageError with its last lines where it fails."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PackageError(f"{' '.join(map(str, command))}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def expect(is_right: bool, otherwise: str) -> None:
    """Raise PackageError with this text unless it is right."""
    if not is_right:
        raise PackageError(otherwise)


def main() -> int:
    """Entry of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="install all dependencies anew")
    parser.add_argument("--model", default="fake", help="what is served (default: fake)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave sdist and wheel there")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            sdist, wheel = build(folder / "dist")
            check_sdist(sdist)
            check_wheel(wheel)
            print(f"built {sdist.name} and {wheel.name}", flush=True)
            programs = install(wheel, folder / "venv", with_dependencies=arguments.full)
            print("installed", flush=True)
            (folder / "away").mkdir()
            check_installed(programs, folder / "away", arguments.model)
            print(f"served {arguments.model} and stopped")
            if arguments.keep is not None:
                arguments.keep.mkdir(parents=True, exist_ok=True)
                for path in (sdist, wheel):
                    shutil.copy(path, arguments.keep)
    except PackageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
