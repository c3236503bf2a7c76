"""`POST /v1/chat/completions`: a conversation in, `n` answers out. The steps are in `serving`.

Where an answer has parts (tool calls, reasoning), `answer_parser` is the one place that says so: the text of each
answer then goes through a parser, streamed or not.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from frontend.answer_parts import AnswerParser, ContentDelta, Part
from frontend.default_template import NO_ENDS
from frontend.generation import Answer
from frontend.input_processor import EngineInput, chat_inputs
from frontend.openai.answer_writer import AnswerWriter, finish_fields
from frontend.openai.chat_parts import delta_of, is_json, last_arguments, message_of
from frontend.openai.logprobs import LogprobsWriter
from frontend.openai.protocol import ChatCompletionRequest
from frontend.openai.serving import OpenAIServing
from frontend.openai.tool_calls import answer_parser, shows_special_tokens, starts_in_reasoning
from frontend.output_processor import Finish, TextDelta, TextOptions
from frontend.state import FrontendState, ServedModel


class OpenAIServingChat(OpenAIServing[ChatCompletionRequest]):
    """The chat endpoint."""

    id_prefix = "chatcmpl-"
    object_name = "chat.completion"
    chunk_object_name = "chat.completion.chunk"
    operation = "chat"

    def __init__(self, state: FrontendState) -> None:
        super().__init__(state, ChatCompletionRequest)

    async def engine_inputs(self, model: ServedModel, body: ChatCompletionRequest) -> list[EngineInput]:
        """One prompt, `n` times."""
        return await chat_inputs(model, body)

    async def writer(self, model: ServedModel, body: ChatCompletionRequest, inputs: list[EngineInput]) -> AnswerWriter:
        """Messages and their deltas."""
        parsers = [answer_parser(model, body, item.prompt_token_ids) for item in inputs]
        return ChatWriter(model, body, inputs, parsers)

    def text_options(self, model: ServedModel, body: ChatCompletionRequest, inputs: list[EngineInput]) -> TextOptions:
        """With the tags that a parser needs, even where they are special tokens, and those that end an answer."""
        options = super().text_options(model, body, inputs)
        return replace(
            options,
            ends=NO_ENDS if body.ignore_eos else model.tokenizer.answer_ends,
            skip_special_tokens=options.skip_special_tokens and not shows_special_tokens(model.tokenizer, body),
            starts_in_reasoning=starts_in_reasoning(model, inputs[0].prompt_token_ids),
        )


class ChatWriter(AnswerWriter):
    """Writes the answers of one conversation."""

    text_path = ("delta", "content")

    def __init__(
        self,
        model: ServedModel,
        body: ChatCompletionRequest,
        inputs: Sequence[EngineInput],
        parsers: Sequence[AnswerParser | None],
    ) -> None:
        """`parsers` has one for each answer."""
        self._body = body
        self._prompt_token_ids = inputs[0].prompt_token_ids
        self._parsers = parsers
        self._last_arguments: list[list[str] | None] = [None] * len(parsers)
        """Pieces of the arguments of each answer's last call, where it has one so far."""
        self._logprobs = LogprobsWriter(
            model.tokenizer.token_texts, num_best=body.top_logprobs, as_token_ids=body.return_tokens_as_token_ids
        )
        self.is_plain = not (body.logprobs or body.return_token_ids or any(parsers))

    def extra_fields(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """What was asked about the prompt."""
        fields: dict[str, Any] = {}
        if self._body.prompt_logprobs is not None:
            fields["prompt_logprobs"] = self._logprobs.prompt(answers[0].prompt_logprobs, self._body.prompt_logprobs)
        if self._body.return_token_ids:
            fields["prompt_token_ids"] = self._prompt_token_ids
        return fields

    def first_choice(self, answers: Sequence[Answer], index: int) -> dict[str, Any]:
        """The role comes before any text."""
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def delta_choices(self, index: int, delta: TextDelta) -> list[dict[str, Any]]:
        """A chunk for each part; what was asked about the tokens goes with the first one."""
        deltas = [delta_of(part) for part in self._parts(index, delta.text, is_last=delta.finish is not None)]
        if not deltas and delta.tokens:
            deltas = [{}]
        choices: list[dict[str, Any]] = [{"delta": item, "logprobs": None, "finish_reason": None} for item in deltas]
        if choices:
            choices[0] |= self._token_fields(delta)
        return choices

    def last_choice(self, index: int, finish: Finish) -> dict[str, Any]:
        """An empty delta."""
        return {"delta": {}, "logprobs": None, **self._finish_fields(index, finish)}

    def whole_choices(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """Messages."""
        return [
            {
                "index": answer.index,
                "message": message_of(self._parts(answer.index, answer.text, is_last=True)),
                "logprobs": None,
                **self._finish_fields(answer.index, answer.finish),
                **self._token_fields(answer),
            }
            for answer in answers
        ]

    def _parts(self, index: int, text: str, *, is_last: bool) -> list[Part]:
        parser = self._parsers[index]
        if parser is None:
            return [ContentDelta(text)] if text else []
        parts = parser.push(text) if text else []
        if is_last:
            parts += parser.finish()
        self._last_arguments[index] = last_arguments(parts, self._last_arguments[index])
        return parts

    def _finish_fields(self, index: int, finish: Finish | None) -> dict[str, Any]:
        fields = finish_fields(finish)
        arguments = self._last_arguments[index]
        if arguments is not None and fields["finish_reason"] == "stop":
            is_cut = isinstance(fields["stop_reason"], str) and not is_json("".join(arguments))
            fields["finish_reason"] = "stop" if is_cut else "tool_calls"
        return fields

    def _token_fields(self, source: Answer | TextDelta) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if self._body.logprobs:
            fields["logprobs"] = self._logprobs.chat(source.tokens)
        if self._body.return_token_ids:
            fields["token_ids"] = [token.token_id for token in source.tokens]
        return fields
