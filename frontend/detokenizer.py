"""Token ids to text, one token at a time; the same path serves streamed and whole answers, so their texts are equal.

`tokenizers.decoders.DecodeStream` does the work: it gives text as soon as it is certain and holds back tokens whose
text still ends inside a character. It is never seeded with the prompt, whose text would leak into the answer where a
prompt ends inside a character (vLLM issue 48853). What it still holds at the end is flushed by decoding the whole.
Invariant: the concatenated output is the decoded text of all tokens. Next: `output_processor.py`.
"""

from tokenizers.decoders import DecodeStream

from frontend.tokenizer import FrontendTokenizer

MAX_HELD_TOKENS = 64
"""No character needs so many; they are bytes that make no text, and each further one would cost more."""


class Detokenizer:
    """Incremental decoding of one answer."""

    def __init__(self, tokenizer: FrontendTokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._begin_segment()

    def _begin_segment(self) -> None:
        self._stream = DecodeStream(skip_special_tokens=self._skip_special_tokens)
        self._token_ids: list[int] = []
        self._texts: list[str] = []
        self._num_held = 0

    def step(self, token_id: int) -> str:
        """Text that has become certain with this token; empty while it ends inside a character."""
        try:
            text: str | None = self._stream.step(self._tokenizer.backend, token_id)
        except Exception as error:  # the library raises nothing more precise
            if not str(error).startswith("Invalid prefix"):
                raise
            # The decoder rewrote what it had already given (vLLM issue 17448): begin anew with this token.
            held = self.flush()
            return held + self.step(token_id)
        self._token_ids.append(token_id)
        if text is not None:
            self._texts.append(text)
            self._num_held = 0
            return text
        self._num_held += 1
        return self.flush() if self._num_held > MAX_HELD_TOKENS else ""

    def flush(self) -> str:
        """What is held back, at the end of the answer; an unfinished character becomes U+FFFD."""
        held = ""
        if self._num_held:
            whole = self._tokenizer.decode(self._token_ids, skip_special_tokens=self._skip_special_tokens)
            given = "".join(self._texts)
            if whole.startswith(given):
                held = whole[len(given) :]
            else:
                held = self._tokenizer.decode(
                    self._token_ids[-self._num_held :], skip_special_tokens=self._skip_special_tokens
                )
        self._begin_segment()
        return held
