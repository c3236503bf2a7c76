"""Chat templates: the models' own work, requests cannot break out, refusals are 400s."""

import json
from typing import Any

import pytest

from frontend.chat_template import ChatTemplate
from frontend.default_template import DEFAULT_TEMPLATE
from frontend.openai.protocol import ChatMessage
from frontend.render_options import RenderOptions
from ipc.errors import ConfigError, InvalidRequestError, UnsupportedParameterError


def messages(*values: dict[str, Any]) -> list[ChatMessage]:
    return [ChatMessage.model_validate(value) for value in values]


USER = {"role": "user", "content": "hi"}


def render(source: str, *values: dict[str, Any], **options: Any) -> str:
    template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    return template.render(messages(*(values or (USER,))), RenderOptions(**options))


def test_the_default_writes_a_section_for_each_message():
    system = {"role": "system", "content": "be brief"}
    assert render(DEFAULT_TEMPLATE, system, USER) == "<|system|>\nbe brief\n<|user|>\nhi\n<|assistant|>\n"
    assert render(DEFAULT_TEMPLATE, add_generation_prompt=False) == "<|user|>\nhi\n"


def test_special_tokens_are_known():
    assert render("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}") == "<s>hi</s>"


def test_blocks_are_trimmed_as_transformers_does():
    assert render("{% if true %}\n    {% for m in messages %}\nx\n    {% endfor %}\n{% endif %}\n") == "x\n"


def test_loop_controls_and_generation_blocks_work():
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
    assert render(source, USER, USER) == "hi"


def test_tojson_escapes_no_html():
    assert render("{{ messages[0].content | tojson }}", {"role": "user", "content": "<é&'>"}) == '"<é&\'>"'


def test_text_parts_are_joined_by_newlines():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert render("{{ messages[0].content }}", {"role": "user", "content": parts}) == "a\nb"


def test_an_image_part_is_refused_by_its_path():
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "http://x"}}]
    with pytest.raises(UnsupportedParameterError) as caught:
        render(DEFAULT_TEMPLATE, {"role": "user", "content": parts})
    assert caught.value.param == "messages.0.content.1"


@pytest.mark.parametrize("message", [{"role": "user"}, {"role": "system", "content": None}])
def test_content_is_required_except_of_the_assistant(message: dict[str, Any]):
    with pytest.raises(InvalidRequestError) as caught:
        render(DEFAULT_TEMPLATE, USER, message)
    assert caught.value.param == "messages.1.content"
    assert render(DEFAULT_TEMPLATE, {"role": "assistant"}, add_generation_prompt=False) == "<|assistant|>\n\n"


def test_developer_is_system_where_the_template_knows_no_developer():
    developer = {"role": "developer", "content": "x"}
    assert render("{{ messages[0].role }}", developer) == "system"
    assert render("{# developer #}{{ messages[0].role }}", developer) == "developer"


def test_arguments_of_tool_calls_are_objects():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"city": "Rome"}'}}
    source = "{{ messages[0].tool_calls[0].function.arguments.city }}"
    assert render(source, {"role": "assistant", "tool_calls": [call]}) == "Rome"


def test_a_template_that_is_nested_too_deeply_is_a_configuration_error():
    with pytest.raises(ConfigError, match="nested"):
        ChatTemplate("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", {})


@pytest.mark.parametrize(
    "source", ["{{ raise_exception('roles must alternate') }}", "{{ messages[7].content.x }}", "{{ 1 + 'a' }}"]
)
def test_what_the_template_refuses_is_the_callers_error(source: str):
    with pytest.raises(InvalidRequestError) as caught:
        render(source)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ range(10**9) | list }}"]
)
def test_templates_stay_in_their_sandbox(source: str):
    with pytest.raises(InvalidRequestError):
        render(source)


def test_a_broken_template_is_a_configuration_error():
    with pytest.raises(ConfigError, match="line 2"):
        ChatTemplate("a\n{% for %}", {})


def tool_call(arguments: object) -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [call]}


ARGUMENTS_AS_JSON = "{{ messages[0].tool_calls[0].function.arguments | tojson }}"


@pytest.mark.parametrize("arguments", ["[" * 100_000, '{"a":' * 100_000, '"\\ud800"', "{", "NaN"])
def test_arguments_that_are_no_json_stay_text(arguments: str):
    assert render(ARGUMENTS_AS_JSON, tool_call(arguments)) == json.dumps(arguments, ensure_ascii=False)


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("source", [ARGUMENTS_AS_JSON, "{{ messages[0].tool_calls }}"])
def test_arguments_that_are_too_deep_to_write_are_the_callers_error(source: str):
    with pytest.raises(InvalidRequestError) as caught:
        render(source, tool_call(nested(50_000)))
    assert caught.value.param == "messages"


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_text_that_is_no_unicode_is_the_callers_error(text: str):
    for message in ({"role": "user", "content": text}, {"role": "user", "content": [{"type": "text", "text": text}]}):
        with pytest.raises(InvalidRequestError) as caught:
            render("{{ messages[0].content | tojson }}", message)
        assert caught.value.param == "messages"


def test_a_template_says_whether_it_knows_tools():
    assert ChatTemplate("{% if tools %}{{ tools | tojson }}{% endif %}", {}).knows_tools
    assert not ChatTemplate(DEFAULT_TEMPLATE, {}).knows_tools
    assert not ChatTemplate("{# tools #}{% set tools = 1 %}{{ tools }}", {}).knows_tools
    assert ChatTemplate("x", {}).source == "x"


def test_tools_are_written_by_the_template():
    template = ChatTemplate("{% for tool in tools %}{{ tool.function.name }}{% endfor %}", {})
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert template.render(messages(USER), RenderOptions(tools=tools)) == "f"
