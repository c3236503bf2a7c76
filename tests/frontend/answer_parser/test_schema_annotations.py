import json

from hypothesis import given
from hypothesis import strategies as st

from frontend.answer_parser.schema_annotations import without_annotations

WORDS = ["description", "title", "default", "properties", "items", "enum", "anyOf", "type", "a"]
VALUES = st.recursive(
    st.sampled_from([1, "string", True]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=10,
)


def test_descriptions_go_wherever_a_schema_stands():
    schema = {
        "description": "x",
        "properties": {"a": {"title": "A", "type": "string"}, "b": {"items": {"anyOf": [{"description": "x"}]}}},
        "$defs": {"c": {"default": 3}},
    }
    assert without_annotations(schema) == {
        "properties": {"a": {"type": "string"}, "b": {"items": {"anyOf": [{}]}}},
        "$defs": {"c": {}},
    }


def test_names_of_properties_and_values_stay():
    schema = {"properties": {"title": {"enum": [{"description": "x"}]}, "default": {"const": {"title": 1}}}}
    assert without_annotations(schema) == schema


@given(VALUES)
def test_anything_may_come(value):
    once = without_annotations(value)
    assert without_annotations(once) == once
    assert len(json.dumps(once)) <= len(json.dumps(value))
