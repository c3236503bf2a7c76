"""JSON schemas without what only people and models read: a grammar has a limit of size, and descriptions are long.

Used by `tool_grammar.py`. Invariant: the result allows exactly what the schema allows; what is no keyword (the name of
a property, a value of an `enum`) stays, whatever it is called.
"""

from typing import Any

_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$comment"}
)
_MAPS_OF_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_LISTS_OF_SCHEMAS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_SCHEMAS = frozenset({"items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames"})


def without_annotations(schema: Any) -> Any:
    """A copy without keywords that allow and forbid nothing; the schema's depth has been checked."""
    if not isinstance(schema, dict):
        return schema
    return {key: _value(key, value) for key, value in schema.items() if key not in _ANNOTATIONS}


def _value(key: str, value: Any) -> Any:
    if key in _MAPS_OF_SCHEMAS and isinstance(value, dict):
        return {name: without_annotations(item) for name, item in value.items()}
    if key in _LISTS_OF_SCHEMAS and isinstance(value, list):
        return [without_annotations(item) for item in value]
    if key in _SCHEMAS:
        return [without_annotations(item) for item in value] if isinstance(value, list) else without_annotations(value)
    return value
