"""Fields of a body that nothing reads: those of the body itself, and those of the objects in it whose form is known.

Used by `request_body.py`, which names them in a header or refuses them. An object of free form (a JSON schema, the
parameters of a tool) has no unknown fields, and null is the same as absent. Invariant: looking costs no more than a
visit of each object, and ends after `MAX_NAMES` names.
"""

from collections.abc import Iterator
from functools import cache
from itertools import islice
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

MAX_NAMES = 20
"""More are not reported."""


def unknown_fields(values: dict[str, Any], model: type[BaseModel], known: frozenset[str] = frozenset()) -> list[str]:
    """Paths (`stream_options.x`, `messages.0.x`) of fields in `values` that `model` does not have.

    `known` are names that the body itself may have besides. `values` passed the model's own check.
    """
    return sorted(islice(_unknown(values, (model,), "", known), MAX_NAMES))


def _unknown(
    value: object, models: tuple[type[BaseModel], ...], path: str, known: frozenset[str] = frozenset()
) -> Iterator[str]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict | list):
                yield from _unknown(item, models, f"{path}{index}.")
    elif isinstance(value, dict) and not any(model.model_config.get("extra") == "allow" for model in models):
        fields = _fields_of(models)
        for name, item in value.items():
            if name in fields:
                if fields[name] and isinstance(item, dict | list):
                    yield from _unknown(item, fields[name], f"{path}{name}.")
            elif name not in known and item is not None:
                yield path + name


@cache
def _fields_of(models: tuple[type[BaseModel], ...]) -> dict[str, tuple[type[BaseModel], ...]]:
    """Field name (and alias) → the models that its value may be; of several models, what any of them has."""
    fields: dict[str, tuple[type[BaseModel], ...]] = {}
    for model in models:
        for name, field in model.model_fields.items():
            for spelling in {name, field.alias or name}:
                fields[spelling] = (*fields.get(spelling, ()), *_models_in(field.annotation))
    return fields


def _models_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The models of an annotation, through unions and lists; none where a map may stand, whose names are free."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    elif get_origin(annotation) not in (list, tuple, Union, UnionType):
        return ()
    if any(get_origin(argument) is dict or argument is dict for argument in arguments):
        return ()
    return tuple(model for argument in arguments for model in _models_in(argument))
