"""The flags of the command line, generated from the sections of `ipc/config.py`: one field, one flag.

Called by `cli.py`. Owns the spelling (vLLM's kebab-case, `--no-x` for booleans) and the help texts; what the values
mean and whether they are valid is decided in `settings.py`, which sees the raw strings.
Invariant: a flag that was not given is absent from the result, so that weaker sources keep their say.
This module must stay quick to import: `--help` needs nothing else.
"""

import argparse
import difflib
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ipc.config import (
    CacheConfig,
    ConnectionConfig,
    FakeModelConfig,
    FrontendConfig,
    LauncherConfig,
    LogConfig,
    ModelConfig,
    SchedulerConfig,
    TracingConfig,
)
from ipc.endpoint_config import EndpointConfig
from ipc.exit_codes import EXIT_USAGE
from ipc.ray_config import RayConfig

ENVIRONMENT_PREFIX = "FAST_INFERENCE_"
SECTIONS: tuple[type[BaseModel], ...] = (
    LauncherConfig,
    ModelConfig,
    FrontendConfig,
    ConnectionConfig,
    SchedulerConfig,
    CacheConfig,
    EndpointConfig,
    RayConfig,
    TracingConfig,
    LogConfig,
    FakeModelConfig,
)
ALIASES = {"frontends": ("--workers", "--api-server-count")}


class _HelpFormatter(argparse.HelpFormatter):
    """Keeps the lines of a text that has several, such as examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text.strip() else super()._fill_text(text, width, indent)

    def add_argument(self, action: argparse.Action) -> None:
        """Count the indentation of commands, which the base class forgets."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment


class FlagParser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations and names the nearest flag for one that it does not know."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": _HelpFormatter, **kwargs})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all arguments; unlike the base class, exit with status 2 where one is left over."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].partition("=")[0]
            hint = nearest(name, self._option_string_actions) if name.startswith("-") else ""
            shown = name if "key" in name else unknown[0]  # what was meant as a secret is not repeated
            self.error(f"unknown argument {shown}{hint}")
        return namespace, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Name the nearest command for one that there is not; the list of all is what --help is for."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            raise argparse.ArgumentError(None, f"no command {value}{nearest(str(value), action.choices)}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(EXIT_USAGE, f"error: {message} (see {self.prog} --help)\n")


def utf8_text(text: str) -> str:
    """An argument that is sent as text; the `type` of a flag, for which bytes that are none are wrong usage."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"is no UTF-8 text at character {error.start}") from error
    return text


def positive_number(text: str) -> float:
    """A finite number above 0; the `type` of a flag."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def nearest(name: str, known: Iterable[str]) -> str:
    """`' (did you mean X?)'` for the known name that is most like `name`, or the empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {matches[0]}?" if matches else ""


def flag_name(field: str) -> str:
    """`max_num_seqs` → `--max-num-seqs`."""
    return "--" + field.replace("_", "-")


def environment_name(field: str) -> str:
    """`max_num_seqs` → `FAST_INFERENCE_MAX_NUM_SEQS`."""
    return ENVIRONMENT_PREFIX + field.upper()


def add_setting_flags(
    parser: argparse.ArgumentParser,
    sections: Sequence[type[BaseModel]] = SECTIONS,
    *,
    leave_out: Container[str] = (),
) -> None:
    """Add MODEL, `--config` and one flag for each field of the sections, but for those that are left out."""
    parser.add_argument("model_argument", nargs="?", metavar="MODEL", help="the same as --model")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file with settings; flags and environment win over it (default: none; env "
        f"{environment_name('config')})",
    )
    for section in sections:
        group = parser.add_argument_group((section.__doc__ or section.__name__).splitlines()[0].rstrip("."))
        for name, field in section.model_fields.items():
            if name not in leave_out:
                _add_flag(group, name, field)


def add_setting_flag(parser: argparse.ArgumentParser, section: type[BaseModel], name: str) -> None:
    """Add the flag of one field."""
    _add_flag(parser, name, section.model_fields[name])


def given_flags(parser: argparse.ArgumentParser, namespace: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given as flags, by field name, unchecked; exits with status 2 for two models."""
    known = {name for section in SECTIONS for name in section.model_fields} | {"config"}
    values = {name: value for name, value in vars(namespace).items() if name in known}
    model = getattr(namespace, "model_argument", None)
    if model is not None:
        if values.get("model", model) != model:
            parser.error(f"two models: {model} and --model {values['model']}")
        values["model"] = model
    return values


def _add_flag(group: "argparse._ActionsContainer", name: str, field: FieldInfo) -> None:
    flags: Sequence[str] = (flag_name(name), *ALIASES.get(name, ()))
    text = f"{field.description} (default: {_shown_default(field.default)}; env {environment_name(name)})"
    text = text.replace("%", "%%")
    if field.annotation is bool:
        group.add_argument(*flags, dest=name, action=argparse.BooleanOptionalAction, help=text)
    elif get_origin(field.annotation) is tuple:
        metavar = {"lora": "NAME=PATH", "connect": "ENDPOINT"}.get(name, "NAME")
        group.add_argument(*flags, dest=name, action="append", metavar=metavar, help=f"{text}; repeatable")
    else:
        group.add_argument(*flags, dest=name, metavar=_metavar(name, field.annotation), help=text)


def _shown_default(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value in (None, (), ""):
        return "none"
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _metavar(name: str, annotation: Any) -> str:
    types = set(get_args(annotation)) or {annotation}
    literals = [inner for inner in (annotation, *types) if get_origin(inner) is Literal]
    if literals:
        return "{" + ",".join(get_args(literals[0])) + "}"
    if Path in types:
        return "DIR" if name.endswith("_dir") else "FILE"
    return "N" if int in types else "X" if float in types else "VALUE"
