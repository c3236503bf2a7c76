"""Chats with a model whose tokenizer brings no template: a section for each message, headed by a tag for its role.

What such a model writes after its answer is the next section, so an answer ends where a tag begins: at the tag's token
where the tokenizer has one, else at its text. Used by `tokenizer.py`; `input_processor.py`
tells the core of the tokens, `output_processor.py` looks for the texts. Next: `chat_template.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

DEFAULT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ROLE_TAGS = ("<|user|>", "<|assistant|>", "<|system|>")


@dataclass(frozen=True, slots=True)
class AnswerEnds:
    """What ends an answer besides what the request says; nothing for a template of the model's own."""

    strings: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()

    @classmethod
    def of_template(cls, source: str, added_token_id: Callable[[str], int | None]) -> "AnswerEnds":
        """Those of a template; `added_token_id` gives the id of a token that was added for a text."""
        if source != DEFAULT_TEMPLATE:
            return NO_ENDS
        token_ids = {tag: added_token_id(tag) for tag in ROLE_TAGS}
        strings = tuple(tag for tag, token_id in token_ids.items() if token_id is None)
        return cls(strings, tuple(token_id for token_id in token_ids.values() if token_id is not None))


NO_ENDS = AnswerEnds()
