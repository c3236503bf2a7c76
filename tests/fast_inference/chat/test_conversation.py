"""What is remembered of a chat, sent, saved and loaded."""

import json

import pytest

from fast_inference.chat.conversation import Conversation
from ipc.errors import ConfigError


def test_a_request_has_all_that_was_said():
    conversation = Conversation("m", "be brief", {"temperature": 0.5})
    conversation.keep("a", "b")
    body = conversation.body("c")
    assert [(message["role"], message["content"]) for message in body["messages"]] == [
        ("system", "be brief"), ("user", "a"), ("assistant", "b"), ("user", "c"),
    ]  # fmt: skip
    assert (body["model"], body["temperature"]) == ("m", 0.5)


def test_a_question_without_an_answer_is_not_sent_again_but_can_be_asked_again():
    conversation = Conversation("m")
    conversation.keep("a", "")
    assert conversation.messages == []
    assert conversation.take_back() == "a"


def test_the_last_answer_can_be_taken_back():
    conversation = Conversation("m")
    conversation.keep("a", "b")
    conversation.keep("c", "d")
    assert conversation.take_back() == "c"
    assert conversation.num_turns == 1
    conversation.reset()
    assert conversation.take_back() == ""


def test_a_saved_conversation_goes_on(tmp_path):
    conversation = Conversation("m", "sys", {"seed": 3})
    conversation.keep("ä", "b")
    conversation.save(tmp_path / "c.json")
    other = Conversation("n")
    other.load(tmp_path / "c.json")
    assert (other.model, other.system, other.sampling, other.messages) == (
        "n",
        "sys",
        {"seed": 3},
        conversation.messages,
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '[{"role": "user", "content": "a"}]',
        '[{"role": "x", "content": "a"}]',
        '{"messages": [], "sampling": 1}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_what_is_no_conversation_is_refused_and_changes_nothing(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    conversation = Conversation("m", "sys")
    conversation.keep("a", "b")
    with pytest.raises(ConfigError, match=r"c\.json is no "):
        conversation.load(tmp_path / "c.json")
    assert (conversation.num_turns, conversation.system) == (1, "sys")


def test_a_file_changes_neither_the_model_nor_what_is_asked(tmp_path):
    values = {"messages": [], "sampling": {"model": "other", "messages": [], "seed": 1}}
    (tmp_path / "c.json").write_text(json.dumps(values))
    conversation = Conversation("m")
    conversation.load(tmp_path / "c.json")
    body = conversation.body("a")
    assert (body["model"], body["messages"], body["seed"]) == ("m", [{"role": "user", "content": "a"}], 1)


def test_a_list_of_messages_is_a_conversation(tmp_path):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "c.json").write_text(json.dumps(messages))
    conversation = Conversation("m")
    conversation.load(tmp_path / "c.json")
    assert conversation.messages == messages


def test_text_that_is_no_unicode_is_saved_as_far_as_it_is(tmp_path):
    conversation = Conversation("m")
    conversation.keep("a", "b\ud800c")
    conversation.save(tmp_path / "c.json")
    conversation.load(tmp_path / "c.json")
    assert conversation.messages[1]["content"] == "b?c"


def test_files_that_cannot_be_had_are_named(tmp_path):
    for use in (Conversation("m").load, Conversation("m").save):
        with pytest.raises(ConfigError, match="null byte"):
            use(tmp_path / "a\0b")
    with pytest.raises(ConfigError, match=r"cannot read .*absent"):
        Conversation("m").load(tmp_path / "absent")
    with pytest.raises(ConfigError, match="cannot write "):
        Conversation("m").save(tmp_path)
