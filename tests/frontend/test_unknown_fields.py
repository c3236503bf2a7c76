"""Names that nothing reads, wherever the form of an object is known."""

from typing import Any

import pytest
from pydantic import BaseModel

from frontend.openai.protocol import ChatCompletionRequest
from frontend.unknown_fields import MAX_NAMES, unknown_fields


class Free(BaseModel, extra="allow"):
    name: str = ""


class Part(BaseModel):
    text: str = ""


class Other(BaseModel):
    url: str = ""


class Body(BaseModel):
    part: Part | Other | None = None
    parts: list[Part | Other] = []
    free: Free | None = None
    anything: dict[str, Any] = {}
    part_or_map: Part | dict[str, Any] | None = None


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"x": 1}, ["x"]),
        ({"x": None}, []),
        ({"part": {"x": 1}}, ["part.x"]),
        ({"part": {"url": "", "text": ""}}, []),
        ({"parts": [{"text": ""}, {"x": 1, "url": ""}]}, ["parts.1.x"]),
        ({"free": {"x": 1}}, []),
        ({"anything": {"x": {"y": 1}}}, []),
        ({"part_or_map": {"x": 1}}, []),
    ],
)
def test_it_finds_them(values: dict[str, Any], names: list[str]):
    assert unknown_fields(values, Body) == names


def test_known_names_count_only_at_the_top():
    assert unknown_fields({"x": 1, "part": {"x": 1}}, Body, frozenset({"x"})) == ["part.x"]


def test_it_looks_into_messages_and_their_parts():
    messages = [{"role": "user", "content": [{"type": "text", "text": "", "x": 1}], "y": 1}]
    values = {"messages": messages, "stream_options": {"z": 1}}
    names = ["messages.0.content.0.x", "messages.0.y", "stream_options.z"]
    assert unknown_fields(values, ChatCompletionRequest) == names


def test_the_number_of_names_is_limited():
    assert len(unknown_fields({str(number): 1 for number in range(1000)}, Body)) == MAX_NAMES
