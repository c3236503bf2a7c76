"""`reasoning_effort`: how long a model thinks, as far as its chat template can tell it.

A template that reads `reasoning_effort` gets it as it is. Another one can at most be told not to think: `none`.
Invariant: an effort that cannot be passed on is refused. Called by `input_processor.py`.
"""

from dataclasses import replace

from frontend.answer_parser.formats import may_think
from frontend.chat_template import THINKING_SWITCH, ChatTemplate
from frontend.render_options import RenderOptions
from ipc.errors import InvalidRequestError, UnsupportedParameterError

PARAM = "reasoning_effort"


def with_effort(options: RenderOptions, template: ChatTemplate, effort: str | None) -> RenderOptions:
    """The options with what tells the template of this effort.

    Raises:
        UnsupportedParameterError: the template cannot be told.
        InvalidRequestError: `chat_template_kwargs` say the opposite.
    """
    if effort is None:
        return options
    if PARAM in template.variables:
        return replace(options, reasoning_effort=effort)
    if effort != "none" or (may_think(template.source) and not template.has_thinking_switch):
        raise UnsupportedParameterError("The model's chat template does not know this effort.", param=PARAM)
    if not template.has_thinking_switch:
        return options
    if options.template_kwargs.get(THINKING_SWITCH):
        param = f"chat_template_kwargs.{THINKING_SWITCH}"
        raise InvalidRequestError(f"{PARAM} and chat_template_kwargs differ", param=param)
    return replace(options, template_kwargs={**options.template_kwargs, THINKING_SWITCH: False})
