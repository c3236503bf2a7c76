"""What the files of sentence-transformers in a model folder say: how hidden states become a vector, and of what text.

Read by `memory_plan.py` (longest text), `model/loader.py` (pooling) and `tokenizer_export.py` (letters), without torch.
Invariant: a folder whose vectors would be made in a way that this server does not know is a `ConfigError` of one line,
never other vectors. A folder without `modules.json` says nothing.
Next: `model/pooling.py` makes the vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from engine_core.config_values import MAX_INTEGER, ConfigValues, read_json, read_json_object
from ipc.errors import ConfigError

PoolingType = Literal["mean", "last", "cls"]

_MODULES_FILE = "modules.json"
_PROMPTS_FILE = "config_sentence_transformers.json"
_TEXT_FILES = tuple(f"sentence_{family}_config.json" for family in ("bert", "roberta", "distilbert", "xlm-roberta"))
"""Settings of the Transformer module; older files are named after its family."""
_POOLING_MODES: Mapping[str, PoolingType] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_cls_token": "cls",
    "mean": "mean",
    "lasttoken": "last",
    "cls": "cls",
}
"""By the key that older files set to true, and by the name that newer ones have."""
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class SentenceFiles:
    """What a folder says; the defaults are what holds for one that says nothing."""

    pooling: PoolingType | None = None
    """None where the folder does not say, or has a kind that is not known here."""
    unknown_pooling: str = ""
    """Names of the kinds that are not known here; empty where there are none."""
    is_normalized: bool = True
    """Vectors are scaled to length 1."""
    max_seq_length: int | None = None
    """Most tokens of a text, those that are put around it included; may be more than the model has positions."""
    is_lowercased: bool = False
    """Texts are written in small letters before they are tokenized."""
    default_prompt: str = ""
    """Name of a prompt that sentence-transformers puts before each text by itself."""

    def resolve_pooling(self, asked: PoolingType | Literal["auto"]) -> PoolingType:
        """What is asked for, else the folder's own, else the mean; raises `ConfigError` where that is not known."""
        if asked != "auto":
            return asked
        if self.unknown_pooling:
            known = ", ".join(get_args(PoolingType))
            raise ConfigError(f"the model pools with {self.unknown_pooling}, known are {known}: choose with --pooling")
        return self.pooling or "mean"


def read_sentence_files(model_dir: Path) -> SentenceFiles:
    """Read `modules.json` and the files that it names.

    Raises:
        ConfigError: one is malformed, or names a module that is not known here.
    """
    if not (model_dir / _MODULES_FILE).is_file():
        return SentenceFiles()
    folders = _modules(model_dir)
    text_file = next((path for name in _TEXT_FILES if (path := folders["Transformer"] / name).is_file()), None)
    text = _values(text_file) if text_file is not None else ConfigValues({})
    pooling, unknown = _pooling(_values(folders["Pooling"] / "config.json")) if "Pooling" in folders else (None, "")
    text.refuse_other_than("transformer_task", ("feature-extraction", None))
    return SentenceFiles(
        pooling=pooling,
        unknown_pooling=unknown,
        is_normalized="Normalize" in folders,
        max_seq_length=_max_seq_length(model_dir, text),
        is_lowercased=not text.is_null("do_lower_case") and text.boolean("do_lower_case"),
        default_prompt=_default_prompt(model_dir / _PROMPTS_FILE),
    )


def _max_seq_length(model_dir: Path, text: ConfigValues) -> int | None:
    """The module's own, else the tokenizer's, which is a huge number where it has none."""
    if not text.is_null("max_seq_length"):
        return text.integer("max_seq_length")
    path = model_dir / "tokenizer_config.json"
    length = read_json_object(path).get("model_max_length") if path.is_file() else None
    return length if type(length) is int and 0 < length <= MAX_INTEGER else None


def _default_prompt(path: Path) -> str:
    values = _values(path) if path.is_file() else ConfigValues({})
    return "" if values.is_null("default_prompt_name") else values.text("default_prompt_name")


def _modules(model_dir: Path) -> dict[str, Path]:
    """The folder of each module, by the last part of its type."""
    modules = read_json(model_dir / _MODULES_FILE)
    if not isinstance(modules, list):
        raise ConfigError(f"malformed {model_dir / _MODULES_FILE}: no list of modules")
    folders: dict[str, Path] = {}
    for item in modules:
        values = ConfigValues(item, where=f"{_MODULES_FILE}: a module")
        package, _, kind = values.text("type").rpartition(".")
        path = values.text("path")
        is_known = kind in _KNOWN_MODULES and package.partition(".")[0] == "sentence_transformers"
        if not is_known or kind in folders:
            raise ConfigError(f"{model_dir / _MODULES_FILE}: vectors that go through {kind[:60]!r} are not served")
        if ".." in Path(path).parts or Path(path).is_absolute() or "\0" in path:
            raise ConfigError(f"{model_dir / _MODULES_FILE} names a folder outside of the model: {path[:60]!r}")
        folders[kind] = model_dir / path
    if "Transformer" not in folders or folders["Transformer"] != model_dir:
        raise ConfigError(f"{model_dir / _MODULES_FILE}: the Transformer must lie in the model's own folder")
    return folders


def _pooling(values: ConfigValues) -> tuple[PoolingType | None, str]:
    """The one kind of pooling of a Pooling module; of an unknown kind, or of several, the names."""
    if not values.is_null("pooling_mode"):  # newer files have the name, or several
        mode = values["pooling_mode"]
        names = [str(name) for name in (mode if isinstance(mode, list) else [mode])]
    else:
        names = [name for name in values if name.startswith("pooling_mode_") and values[name] is True] or ["mean"]
    kind = _POOLING_MODES.get(names[0]) if len(names) == 1 else None
    return (kind, "") if kind is not None else (None, " and ".join(names)[:80])


def _values(path: Path) -> ConfigValues:
    values: Any = read_json_object(path)
    return ConfigValues(values, where=f"{path.parent.name}/{path.name}")
