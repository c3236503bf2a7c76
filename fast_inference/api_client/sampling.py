"""The sampling fields that people can set: flags of `chat` and `complete`, and names for `/set`.

Owns how a field is written; whether a value is in range is the server's to say. A field that nobody has set is not
sent, so that the server's default counts.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fast_inference.flags import utf8_text


@dataclass(frozen=True, slots=True)
class SamplingField:
    """One field of the body of a request."""

    parse: Callable[[str], Any]
    """Raises ValueError."""
    kind: str
    """What a value looks like, for people."""
    description: str

    def value_of(self, text: str) -> Any:
        """The value that was written; raises ValueError with a line for people."""
        try:
            return self.parse(text)
        except ValueError as error:
            raise ValueError(f"must be {self.kind}, not {text!r}") from error


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError(text)
    return value


_WHOLE, _NUMBER = "a whole number", "a number"
SAMPLING_FIELDS = {
    "max_tokens": SamplingField(int, _WHOLE, "most tokens of the answer"),
    "temperature": SamplingField(_finite, _NUMBER, "0 always takes the likeliest token, more is more surprising"),
    "top_p": SamplingField(_finite, _NUMBER, "only the likeliest tokens that make up this probability"),
    "top_k": SamplingField(int, _WHOLE, "only so many of the likeliest tokens"),
    "min_p": SamplingField(_finite, _NUMBER, "only tokens with this part of the likeliest one's probability"),
    "repetition_penalty": SamplingField(_finite, _NUMBER, "above 1, what was said becomes less likely"),
    "presence_penalty": SamplingField(_finite, _NUMBER, "above 0, tokens that were said become less likely"),
    "frequency_penalty": SamplingField(_finite, _NUMBER, "the same for each time that they were said"),
    "seed": SamplingField(int, _WHOLE, "the same seed draws the same answer"),
}


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each field, `--stop` and `--extra-body`."""
    group = parser.add_argument_group("Sampling", "What is not given is left to the server.")
    for name, field in SAMPLING_FIELDS.items():
        group.add_argument(
            "--" + name.replace("_", "-"),
            dest=name,
            type=_flag_type(field),
            metavar="N" if field.kind == _WHOLE else "X",
            help=f"{field.description} (default: the server's)",
        )
    group.add_argument(
        "--stop",
        action="append",
        type=utf8_text,
        metavar="TEXT",
        help="end before this text (default: none); repeatable",
    )
    group.add_argument(
        "--extra-body", type=_json_object, default={}, metavar="JSON", help="more fields of the request (default: none)"
    )


def given_sampling(namespace: argparse.Namespace) -> dict[str, Any]:
    """The fields that were given, for the body of a request."""
    values = {name: getattr(namespace, name) for name in (*SAMPLING_FIELDS, "stop")}
    return {**{name: value for name, value in values.items() if value is not None}, **namespace.extra_body}


def _flag_type(field: SamplingField) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return field.value_of(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")
    return value
