"""Templates in the manner of well-known families: the text is the one that transformers writes."""

import json
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from frontend.chat_template import ChatTemplate
from frontend.openai.protocol import ChatMessage
from frontend.render_options import RenderOptions
from ipc.errors import InvalidRequestError, UnsupportedParameterError

CHATML = (
    "{%- if tools %}{{- '<|im_start|>system\n# Tools\n<tools>' }}{%- for tool in tools %}{{- '\n' ~ (tool | tojson) }}"
    "{%- endfor %}{{- '\n</tools><|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.reasoning_content is string and enable_thinking is not false %}"
    "{{- '<think>\n' + message.reasoning_content.strip('\n') + '\n</think>\n' }}{%- endif %}{{- message.content }}"
    "{%- for call in message.tool_calls or [] %}{%- if call.function %}{%- set call = call.function %}{%- endif %}"
    '{{- \'\n<tool_call>\n{"name": "\' ~ call.name ~ \'", "arguments": \' }}'
    "{%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}"
    "{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}"
    "{%- if not tools is defined %}{%- set tools = none %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] | trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' + system_message }}"
    "{%- if tools is not none %}{%- for t in tools %}{{- t | tojson(indent=4) }}{{- '\n\n' }}{%- endfor %}{%- endif %}"
    "{{- '<|eot_id|>' }}{%- for message in messages %}"
    "{%- if not (message.role == 'tool' or 'tool_calls' in message) %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- elif 'tool_calls' in message %}"
    "{%- if not message.tool_calls | length == 1 %}"
    "{{- raise_exception('This model only supports single tool-calls at once!') }}{%- endif %}"
    "{%- set call = message.tool_calls[0].function %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{{- '{\"name\": \"' + call.name + '\", ' }}{{- '\"parameters\": ' }}{{- call.arguments | tojson }}"
    "{{- '}<|eot_id|>' }}"
    "{%- else %}{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}"
    "{%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}"
    "{%- else %}{{- message.content }}{%- endif %}{{- '<|eot_id|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
ALTERNATING = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
DEVELOPER = (
    "{% for message in messages %}{% if message.role == 'developer' or message.role == 'system' %}"
    "<|developer|>{{ message.content }}{% else %}<|{{ message.role }}|>{{ message.content }}{% endif %}{% endfor %}"
    "{% if documents %}{% for doc in documents %}[{{ doc.title }}: {{ doc.text }}]{% endfor %}{% endif %}"
    "{% if reasoning_effort is defined %}<|effort|>{{ reasoning_effort }}{% endif %}"
)
TEXT_ARGUMENTS = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "{{ '<call>' + c.function.name + '\n' + c.function.arguments + '</call>' }}{% endfor %}{% endif %}\n{% endfor %}"
)
PARTS = (
    "{% for m in messages %}{{ m.role }}:{% for part in m['content'] %}{% if part.type == 'text' %}{{ part.text }};"
    "{% endif %}{% endfor %}\n{% endfor %}"
)

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
USER = {"role": "user", "content": "  What is the weather? "}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": '{"sun": true}'}
ANSWER = {"role": "assistant", "content": "Sunny. \n"}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


def ours(source: str, conversation: list[dict[str, Any]], **options: Any) -> str:
    messages = [ChatMessage.model_validate(message) for message in conversation]
    return ChatTemplate(source, SPECIAL).render(messages, RenderOptions(**options))


def theirs(source: str, conversation: list[dict[str, Any]], **options: Any) -> str:
    """What transformers writes, with arguments that are objects."""
    messages = json.loads(json.dumps(conversation))
    for message in messages:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    options = {"add_generation_prompt": not options.get("continue_final_message"), **options}
    (text,), _ = render_jinja_template([messages], chat_template=source, **SPECIAL, **options)
    return str(text)


@pytest.mark.parametrize("source", [CHATML, LLAMA3], ids=["chatml", "llama3"])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize(
    "conversation",
    [[USER], [SYSTEM, USER, ANSWER, USER], [USER, CALL, RESULT], [SYSTEM, USER, CALL, RESULT, ANSWER, USER]],
    ids=["short", "turns", "result", "all"],
)
def test_the_text_is_that_of_transformers(source: str, tools: Any, conversation: list[dict[str, Any]]):
    assert ours(source, conversation, tools=tools) == theirs(source, conversation, tools=tools)


@pytest.mark.parametrize("source", [CHATML, LLAMA3, ALTERNATING], ids=["chatml", "llama3", "alternating"])
@pytest.mark.parametrize("content", ["The sky is", " padded \n", "a\nb  ", "The sky is The sky is"])
def test_a_message_to_continue_is_left_open_as_transformers_does(source: str, content: str):
    conversation = [USER, {"role": "assistant", "content": content}]
    expected = theirs(source, conversation, continue_final_message=True)
    assert ours(source, conversation, add_generation_prompt=False, continue_final_message=True) == expected
    assert expected.rstrip().endswith(content.strip())


@pytest.mark.parametrize(
    "message", [{"role": "assistant", "content": ""}, {"role": "assistant"}, {"role": "user", "content": []}, CALL]
)
def test_a_message_without_text_cannot_be_continued(message: dict[str, Any]):
    with pytest.raises(InvalidRequestError) as caught:
        ours(CHATML, [USER, message], add_generation_prompt=False, continue_final_message=True)
    assert caught.value.param == "continue_final_message"


def test_a_message_that_the_template_leaves_out_cannot_be_continued():
    with pytest.raises(InvalidRequestError) as caught:
        ours("{{ messages[0].content }}", [USER, ANSWER], continue_final_message=True)
    assert caught.value.param == "continue_final_message"


def test_a_conversation_that_the_template_refuses_is_the_callers_error():
    with pytest.raises(InvalidRequestError, match="must alternate") as caught:
        ours(ALTERNATING, [USER, USER])
    assert caught.value.param == "messages"
    assert ours(ALTERNATING, [USER, ANSWER]).startswith("<s>[INST]")


def test_a_template_with_a_developer_gets_one():
    assert ours(DEVELOPER, [{"role": "developer", "content": "x"}, USER]) == "<|developer|>x<|user|>" + USER["content"]
    assert ours(CHATML, [{"role": "developer", "content": "x"}]).startswith("<|im_start|>system\nx")


def test_documents_and_the_effort_reach_a_template_that_knows_them():
    documents = [{"title": "a", "text": "b"}]
    assert ours(DEVELOPER, [USER], documents=documents, reasoning_effort="low").endswith("[a: b]<|effort|>low")
    assert ours(CHATML, [USER], reasoning_effort="low") == ours(CHATML, [USER])


@pytest.mark.parametrize(
    ("source", "options", "param"),
    [
        (CHATML, {"documents": [{"text": "x"}]}, "documents"),
        (ALTERNATING, {"tools": TOOLS}, "tools"),
        (CHATML, {"template_kwargs": {"verbosity": 1}}, "chat_template_kwargs.verbosity"),
    ],
)
def test_what_the_template_does_not_know_is_refused(source: str, options: dict[str, Any], param: str):
    with pytest.raises(UnsupportedParameterError) as caught:
        ours(source, [USER], **options)
    assert caught.value.param == param


RESERVED = (
    *("messages", "tools", "documents", "chat_template", "tokenize", "add_generation_prompt", "continue_final_message"),
    *("bos_token", "eos_token", "range", "raise_exception", "namespace", "loop", "self", "meter of the rendering"),
)


@pytest.mark.parametrize("name", RESERVED)
def test_no_variable_of_the_server_can_be_set(name: str):
    names = [name for name in RESERVED if name.isidentifier()]
    source = "".join(f"{{% if {name} is defined %}}{{% endif %}}" for name in names)
    with pytest.raises(UnsupportedParameterError) as caught:
        ours(source, [USER], template_kwargs={name: []})
    assert caught.value.param == f"chat_template_kwargs.{name}"


def test_a_variable_that_the_template_reads_can_be_set():
    thinking = [USER, {"role": "assistant", "content": "Hi", "reasoning_content": "Hm."}]
    assert "<think>\nHm.\n</think>\nHi" in ours(CHATML, thinking)
    assert "<think>" not in ours(CHATML, thinking, template_kwargs={"enable_thinking": False})
    assert '"f"' in ours(LLAMA3, [USER], template_kwargs={"custom_tools": [{"name": "f"}]})


def test_an_effort_that_contradicts_the_variable_is_refused():
    assert ours(DEVELOPER, [USER], reasoning_effort="low", template_kwargs={"reasoning_effort": "low"}).endswith("low")
    with pytest.raises(InvalidRequestError, match="differ"):
        ours(DEVELOPER, [USER], reasoning_effort="low", template_kwargs={"reasoning_effort": "high"})


@pytest.mark.parametrize(("source", "knows"), [(CHATML, True), (LLAMA3, True), (ALTERNATING, False)])
def test_a_template_says_whether_it_knows_tools(source: str, knows: bool):
    assert ChatTemplate(source, SPECIAL).knows_tools is knows


def test_arguments_are_json_for_templates_that_write_them_as_text():
    assert '<call>weather\n{"city": "Rome"}</call>' in ours(TEXT_ARGUMENTS, [USER, CALL])


def test_a_template_that_reads_only_parts_gets_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    assert ours(PARTS, [{"role": "user", "content": "hi"}]) == "user:hi;"
    assert ours(PARTS, [{"role": "assistant", "content": parts}]) == "assistant:a;b;"
    assert ours(PARTS, [{"role": "assistant", "content": parts}], continue_final_message=True) == "assistant:a;b"
