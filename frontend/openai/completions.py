"""`POST /v1/completions`: one or several prompts in, `n` continuations of each out. The steps are in `serving`."""

from collections.abc import Sequence
from typing import Any

from frontend.answer_tokens import AnswerToken
from frontend.generation import Answer
from frontend.input_processor import EngineInput, completion_inputs
from frontend.openai.answer_writer import AnswerWriter, finish_fields
from frontend.openai.echo import NO_ECHO, Echo, echo_of
from frontend.openai.logprobs import LOWEST_LOGPROB, LogprobsWriter
from frontend.openai.protocol import CompletionRequest
from frontend.openai.serving import OpenAIServing
from frontend.output_processor import Finish, TextDelta
from frontend.state import FrontendState, ServedModel


class OpenAIServingCompletion(OpenAIServing[CompletionRequest]):
    """The text completion endpoint; the choices of prompt p are p * n … p * n + n - 1."""

    id_prefix = "cmpl-"
    object_name = "text_completion"
    chunk_object_name = "text_completion"
    operation = "text_completion"

    def __init__(self, state: FrontendState) -> None:
        super().__init__(state, CompletionRequest)

    async def engine_inputs(self, model: ServedModel, body: CompletionRequest) -> list[EngineInput]:
        """Each prompt, `n` or `best_of` times."""
        return await completion_inputs(model, body)

    async def writer(self, model: ServedModel, body: CompletionRequest, inputs: list[EngineInput]) -> AnswerWriter:
        """Texts, behind their prompts where those are echoed."""
        echoes: list[Echo] = []
        if body.echo:
            echoes = [
                await echo_of(
                    model.tokenizer,
                    item,
                    skip_special_tokens=body.skip_special_tokens,
                    has_offsets=body.num_echoed_logprobs is not None,
                )
                for item in inputs[:: body.answers_per_prompt]
            ]
        return CompletionWriter(model, body, inputs, echoes)


class CompletionWriter(AnswerWriter):
    """Writes the answers to all prompts of one request."""

    text_path = ("text",)

    def __init__(
        self, model: ServedModel, body: CompletionRequest, inputs: Sequence[EngineInput], echoes: Sequence[Echo]
    ) -> None:
        """`echoes` has one for each prompt, or none at all."""
        self._body = body
        self._inputs = inputs
        self._echoes = echoes
        self._logprobs = LogprobsWriter(
            model.tokenizer.token_texts, num_best=body.logprobs or 0, as_token_ids=body.return_tokens_as_token_ids
        )
        self.is_plain = body.logprobs is None and not body.return_token_ids

    def first_choice(self, answers: Sequence[Answer], index: int) -> dict[str, Any] | None:
        """The prompt, as far as anything of it was asked for."""
        if not self._body.echo and not self._body.return_token_ids:
            return None
        choice: dict[str, Any] = {"text": self._echo(index).text, "logprobs": None, "finish_reason": None}
        if self._body.num_echoed_logprobs is not None:
            choice["logprobs"] = self._logprobs.completion(self._echoed_tokens(answers, index))
        if self._body.return_token_ids:
            choice["prompt_token_ids"] = self._inputs[index].prompt_token_ids
            choice["token_ids"] = []
        return choice

    def delta_choices(self, index: int, delta: TextDelta) -> list[dict[str, Any]]:
        """One chunk."""
        if not delta.text and not delta.tokens:
            return []
        choice: dict[str, Any] = {"text": delta.text, "logprobs": None, "finish_reason": None}
        if self._body.logprobs is not None:
            choice["logprobs"] = self._logprobs.completion(delta.tokens, len(self._echo(index).text))
        if self._body.return_token_ids:
            choice["token_ids"] = [token.token_id for token in delta.tokens]
        return [choice]

    def last_choice(self, index: int, finish: Finish) -> dict[str, Any]:
        """An empty text."""
        return {"text": "", "logprobs": None, **finish_fields(finish)}

    def whole_choices(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """`n` for each prompt, prompt by prompt."""
        kept: list[Answer] = []
        for start in range(0, len(answers), self._body.answers_per_prompt):
            of_prompt = answers[start : start + self._body.answers_per_prompt]
            kept += (
                sorted(of_prompt, key=mean_logprob, reverse=True)[: self._body.n] if self._body.is_ranked else of_prompt
            )
        return [{"index": index, **self._whole_choice(answers, answer)} for index, answer in enumerate(kept)]

    def _whole_choice(self, answers: Sequence[Answer], answer: Answer) -> dict[str, Any]:
        body, echo = self._body, self._echo(answer.index)
        choice: dict[str, Any] = {"text": echo.text + answer.text, "logprobs": None, **finish_fields(answer.finish)}
        if body.logprobs is not None:
            choice["logprobs"] = self._logprobs.completion(answer.tokens, len(echo.text))
        if body.num_echoed_logprobs is not None:
            echoed = self._logprobs.completion(self._echoed_tokens(answers, answer.index))
            choice["logprobs"] = {name: echoed[name] + values for name, values in choice["logprobs"].items()}
        if body.prompt_logprobs is not None:
            rows = answers[self._first_index(answer.index)].prompt_logprobs
            choice["prompt_logprobs"] = self._logprobs.prompt(rows, body.prompt_logprobs)
        if body.return_token_ids:
            choice["prompt_token_ids"] = self._inputs[answer.index].prompt_token_ids
            choice["token_ids"] = [token.token_id for token in answer.tokens]
        return choice

    def _first_index(self, index: int) -> int:
        """Of the answers to the same prompt, the one that the core told about the prompt."""
        return index - index % self._body.answers_per_prompt

    def _echo(self, index: int) -> Echo:
        return self._echoes[index // self._body.answers_per_prompt] if self._echoes else NO_ECHO

    def _echoed_tokens(self, answers: Sequence[Answer], index: int) -> list[AnswerToken]:
        rows = answers[self._first_index(index)].prompt_logprobs
        return self._echo(index).tokens(self._inputs[index].prompt_token_ids, rows)


def mean_logprob(answer: Answer) -> float:
    """What `best_of` ranks by; an answer without tokens comes last."""
    logprobs = [token.logprobs.logprobs[0] for token in answer.tokens if token.logprobs is not None]
    return sum(logprobs) / len(logprobs) if logprobs else LOWEST_LOGPROB
