from frontend.answer_parser.tool_prompt import with_tool_texts
from frontend.openai.protocol import ChatMessage

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
USER = ChatMessage(role="user", content="hi")


def test_the_tools_come_first():
    system, user = with_tool_texts([USER], [TOOL])
    assert system.role == "system"
    assert '{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}' in system.content
    assert "<tool_call>" in system.content
    assert user is USER


def test_a_system_message_keeps_its_place():
    system, _ = with_tool_texts([ChatMessage(role="system", content="Be kind."), USER], [TOOL])
    assert system.content.startswith("Be kind.\n\n")


def test_calls_and_results_become_text():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    conversation = [
        USER,
        ChatMessage(role="assistant", content="Let me see.", tool_calls=[call, call]),
        ChatMessage(role="tool", tool_call_id="1", content="42"),
    ]
    _, assistant, result = with_tool_texts(conversation, [])
    text = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert assistant.content == f"Let me see.\n{text}\n{text}"
    assert assistant.tool_calls is None
    assert (result.role, result.content) == ("user", "<tool_response>\n42\n</tool_response>")
