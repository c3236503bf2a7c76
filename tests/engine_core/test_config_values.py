"""A value of a config is of the kind that its key wants, or the message says which it must be."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_core.config_values import MAX_INTEGER, ConfigValues, read_json_object
from ipc.errors import ConfigError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=3),
    max_leaves=6,
)
KINDS = ["integer", "number", "decimal", "numbers", "boolean", "text", "texts"]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("integer", 1, 1),
        ("integer", MAX_INTEGER, MAX_INTEGER),
        ("number", 2, 2.0),
        ("number", 0.5, 0.5),
        ("decimal", 1e-5, 1e-5),
        ("numbers", [1, 2.5], (1.0, 2.5)),
        ("boolean", False, False),
        ("text", "", ""),
        ("texts", ["a"], ("a",)),
    ],
)
def test_a_right_value_is_returned(kind, value, expected):
    assert getattr(ConfigValues({"key": value}), kind)("key") == expected


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("integer", "8", r'config\.json: key must be an integer from 1 to 2147483647, not "8"'),
        ("integer", True, "not true"),
        ("integer", 2.0, r"not 2\.0"),
        ("integer", 0, "not 0"),
        ("integer", 10**400, "not a huge integer"),
        ("integer", None, "not null"),
        ("number", float("nan"), "a number above zero, not NaN"),
        ("number", -(10**400), "above zero"),
        ("number", True, "not true"),
        ("decimal", 1, "with a decimal point, not 1"),
        ("numbers", [1.0, "2"], "a list of numbers above zero"),
        ("numbers", 1.0, "a list of numbers above zero"),
        ("boolean", 0, "true or false, not 0"),
        ("text", ["a"], "a string"),
        ("texts", "a", "a list of strings"),
        ("texts", ["a", None], "a list of strings"),
        ("text", {"long": "x" * 100}, "…$"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(kind, value, message):
    with pytest.raises(ConfigError, match=message):
        getattr(ConfigValues({"key": value}), kind)("key")


@given(value=JSON, kind=st.sampled_from(KINDS))
def test_every_value_is_returned_or_refused_in_one_line(value, kind):
    message = ""
    try:
        getattr(ConfigValues({"key": value}), kind)("key")
    except ConfigError as error:
        message = error.message
    assert "\n" not in message
    assert len(message) < 150


def test_a_missing_key_has_its_default_or_is_named():
    values = ConfigValues({"a": 1}, {"a": 5, "b": 2})
    assert (values.integer("a"), values.integer("b")) == (1, 2)
    with pytest.raises(ConfigError, match=r"config\.json lacks c"):
        values.integer("c")


def test_ordinary_values_are_compared_with_their_type():
    values = ConfigValues({"one": 1, "true": True})
    values.refuse_other_than("one", (1, None))
    values.refuse_other_than("missing", (1,))
    for name, ordinary in (("one", (1.0,)), ("one", (True,)), ("true", (1,))):
        with pytest.raises(ConfigError, match=name):
            values.refuse_other_than(name, ordinary)


@pytest.mark.parametrize("content", ["", "[1]", "3", '{"a": ', "[" * 100_000, b"\xff\xfe", '{"a": ' + "9" * 5000 + "}"])
def test_a_file_without_a_json_object_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=r"cannot read .*config\.json: ") as caught:
        read_json_object(path)
    assert "\n" not in caught.value.message


def test_a_json_object_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": [1, None]}))
    assert read_json_object(tmp_path / "a.json") == {"a": [1, None]}
    with pytest.raises(ConfigError, match="No such file"):
        read_json_object(tmp_path / "b.json")
