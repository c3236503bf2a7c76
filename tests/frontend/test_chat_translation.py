import pytest

from frontend.chat_translation import renamed_params, required, text_content
from ipc.errors import InvalidRequestError

NAMES = {"max_tokens": "max_output_tokens", "messages.0.content": "input", "messages": "input"}


@pytest.mark.parametrize(
    ("param", "message", "new_param", "new_message"),
    [
        ("max_tokens", "max_tokens must be small", "max_output_tokens", "max_output_tokens must be small"),
        ("messages.0.content", "messages.0.content: no", "input", "input: no"),
        ("messages", "The chat template refuses", "input", "The chat template refuses"),
        ("top_p", "top_p: no", "top_p", "top_p: no"),
        (None, "no", None, "no"),
    ],
)
def test_errors_get_the_names_of_the_other_api(param, message, new_param, new_message):
    with pytest.raises(InvalidRequestError) as caught, renamed_params(lambda name: NAMES.get(name, name)):
        raise InvalidRequestError(message, param=param)
    assert (caught.value.param, caught.value.message) == (new_param, new_message)


def test_what_is_missing_is_named():
    with pytest.raises(InvalidRequestError) as caught:
        required(None, "input.0.role")
    assert (caught.value.param, caught.value.code) == ("input.0.role", "missing_required_parameter")


def test_several_texts_are_parts():
    assert text_content([]) == ""
    assert text_content(["a"]) == "a"
    assert text_content(["a", "b"]) == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
