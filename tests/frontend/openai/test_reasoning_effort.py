import pytest

from frontend.chat_template import ChatTemplate
from frontend.openai.protocol import ChatCompletionRequest
from frontend.openai.reasoning_effort import with_effort
from frontend.render_options import RenderOptions
from frontend.request_body import validate_body
from ipc.errors import InvalidRequestError, UnsupportedParameterError

BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
PLAIN = "{{ messages }}"
THINKS = "{{ messages }}<think>"
SWITCHED = "{{ messages }}{% if enable_thinking %}<think>{% endif %}"
GRADED = "{{ messages }}{{ reasoning_effort }}<think>"


def options_of(source: str, effort: str | None, **kwargs: bool) -> RenderOptions:
    return with_effort(RenderOptions(template_kwargs=kwargs), ChatTemplate(source, {}), effort)


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh"])
def test_a_template_that_reads_the_effort_gets_it(effort: str):
    assert options_of(GRADED, effort).reasoning_effort == effort


@pytest.mark.parametrize("source", [PLAIN, THINKS, SWITCHED, GRADED])
def test_without_an_effort_nothing_changes(source: str):
    assert options_of(source, None) == RenderOptions()


def test_none_switches_thinking_off():
    assert options_of(SWITCHED, "none").template_kwargs == {"enable_thinking": False}
    assert options_of(SWITCHED, "none", enable_thinking=False).template_kwargs == {"enable_thinking": False}


def test_a_model_that_does_not_think_has_the_effort_none():
    assert options_of(PLAIN, "none") == RenderOptions()


@pytest.mark.parametrize(("source", "effort"), [(PLAIN, "low"), (THINKS, "none"), (THINKS, "high"), (SWITCHED, "high")])
def test_an_effort_that_cannot_be_passed_on_is_refused(source: str, effort: str):
    with pytest.raises(UnsupportedParameterError) as raised:
        options_of(source, effort)
    assert raised.value.param == "reasoning_effort"


def test_two_opposite_wishes_are_refused():
    with pytest.raises(InvalidRequestError) as raised:
        options_of(SWITCHED, "none", enable_thinking=True)
    assert raised.value.param == "chat_template_kwargs.enable_thinking"


@pytest.mark.parametrize("effort", ["much", "", 1])
def test_other_efforts_are_none(effort: object):
    with pytest.raises(InvalidRequestError) as raised:
        validate_body(ChatCompletionRequest, {**BODY, "reasoning_effort": effort})
    assert raised.value.param == "reasoning_effort"
