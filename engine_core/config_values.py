"""Strict reading of a model's JSON files: a value is of the kind that its key wants, or it is a `ConfigError`.

Such files are written by many tools: where a size belongs, one finds strings, booleans, null, NaN and numbers without
bounds, and Python computes with most of them. Used by `memory_plan.py` for the sizes and by `model/decoder` for the
rest. Invariant: no malformed value leaves this module, and no error but `ConfigError`, of one line.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ipc.errors import ConfigError

MAX_INTEGER = 2**31 - 1
"""No size of a model is larger, and the kernels count with 32 bits."""
_NO_DEFAULTS: Mapping[str, Any] = MappingProxyType({})
_MAX_SHOWN = 40
"""Characters of a wrong value in a message."""


def read_json(path: Path) -> Any:
    """Read a file that holds JSON; raises `ConfigError`."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object; raises `ConfigError`."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise ConfigError(f"cannot read {path}: it is no JSON object")
    return values


class ConfigValues(Mapping[str, Any]):
    """One JSON object; keys that it lacks have the values of `defaults`.

    The methods named for a kind of value raise `ConfigError` where the value is of another kind or is missing.
    """

    def __init__(self, values: Any, defaults: Mapping[str, Any] = _NO_DEFAULTS, *, where: str = "config.json") -> None:
        """Raises `ConfigError` if `values` is no JSON object; `where` is what messages call it."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where} is no JSON object but {_shown(values)}")
        self._values = {**defaults, **values}
        self._where = where

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def integer(self, name: str, minimum: int = 1, maximum: int = MAX_INTEGER) -> int:
        """From `minimum` to `maximum`; neither 2.0 nor true is one."""
        value = self._present(name)
        if type(value) is not int or not minimum <= value <= maximum:
            raise self._wrong(name, f"an integer from {minimum} to {maximum}")
        return value

    def number(self, name: str) -> float:
        """Finite and above zero."""
        value = self._present(name)
        if not _is_positive_number(value):
            raise self._wrong(name, "a number above zero")
        return float(value)

    def decimal(self, name: str) -> float:
        """A number that is written with a point or an exponent, as transformers demands for some keys."""
        if type(self._present(name)) is int:
            raise self._wrong(name, "a number with a decimal point")
        return self.number(name)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of numbers above zero."""
        values = self._present(name)
        if not isinstance(values, list) or not all(map(_is_positive_number, values)):
            raise self._wrong(name, "a list of numbers above zero")
        return tuple(map(float, values))

    def boolean(self, name: str) -> bool:
        """Neither 0 nor "false" is one."""
        value = self._present(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def text(self, name: str) -> str:
        """A string."""
        value = self._present(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self._present(name)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self._wrong(name, "a list of strings")
        return tuple(values)

    def is_null(self, name: str) -> bool:
        """Whether the value is null or missing."""
        return self._values.get(name) is None

    def refuse_other_than(self, name: str, ordinary: tuple[Any, ...]) -> None:
        """Raise `ConfigError` if the key is there with another value than one of these; 1, 1.0 and true differ."""
        if name not in self._values:
            return
        value = self._values[name]
        if not any(type(value) is type(other) and value == other for other in ordinary):
            raise self._wrong(name, " or ".join(map(json.dumps, ordinary)))

    def _present(self, name: str) -> Any:
        if name not in self._values:
            raise ConfigError(f"{self._where} lacks {name}")
        return self._values[name]

    def _wrong(self, name: str, wanted: str) -> ConfigError:
        return ConfigError(f"{self._where}: {name} must be {wanted}, not {_shown(self._values[name])}")


def _is_positive_number(value: Any) -> bool:
    if type(value) not in (int, float):
        return False
    return 0 < value <= MAX_INTEGER * 2**32 and math.isfinite(value)


def _shown(value: Any) -> str:
    """A value for a message, in one line; JSON whose values are too large or too deep to be written is named only."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_INTEGER:
        return "a huge integer"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return type(value).__name__
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
