"""A model runner without weights (`--model fake`): for testing everything around the model.

It keeps a KV cache of token ids, writes and reads it through the block tables like a real one, and derives the next
token from all that it reads. The answer is thus a function of the prompt (and the position), and a wrong block table,
a prefix-cache mix-up or a lost recompute shows as a wrong text. Step time and faults are adjustable
(`FakeModelConfig`). It is never a proof that something works with a model.
"""

import logging
import os
import time
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from engine_core.outputs import (
    Logprobs,
    ModelInfo,
    ModelRunnerOutput,
    NewRequestData,
    RequestKey,
    SchedulerOutput,
    StepMemoryError,
)
from engine_core.structured_output.grammar import BITS_PER_WORD, GrammarError, GrammarMatcher
from ipc.config import CacheConfig, FakeModelConfig, ModelConfig
from ipc.errors import ConfigError
from ipc.messages import Task

logger = logging.getLogger(__name__)

NUM_BYTES = 256
IM_START_ID, IM_END_ID = NUM_BYTES, NUM_BYTES + 1
VOCAB_SIZE = NUM_BYTES + 2
EMBEDDING_SIZE = 16
DEFAULT_MAX_MODEL_LEN = 4096
DEFAULT_NUM_BLOCKS = 2048

POISON = b"poison"
"""A prompt with this in it kills the core at output token N of the fault `poison@N`."""

_ALPHABET = "etaoin shrdlu cmfwyp vbgkqjxz, ETAOIN. "
_GRAMMAR_ALPHABET = b'"]}' * 6 + b"etaoinshrdlu0123456789,:"
"""What is said under a grammar, as far as it allows: what closes comes often, so that answers end."""
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(slots=True)
class _FakeRequest:
    new: NewRequestData
    token_ids: list[int]
    block_ids: list[int] = field(default_factory=list)
    matcher: GrammarMatcher | None = None
    """Made with the first token, so that its errors are those of one request."""


@dataclass(frozen=True, slots=True)
class _Faults:
    """Parsed `fake_faults`; 0 means never."""

    die: int = 0
    hang: int = 0
    fail: int = 0
    broken: int = 0
    oom: int = 0
    nan: int = 0
    bad: int = 0
    poison: int = 0

    @classmethod
    def parse(cls, text: str) -> "_Faults":
        names = {name: name for name in ("die", "hang", "broken", "oom", "nan", "bad", "poison")} | {"raise": "fail"}
        values: dict[str, int] = {}
        for item in filter(None, text.split(",")):
            name, _, number = item.partition("@")
            if name not in names or not number.isdigit():
                raise ConfigError(
                    f"--fake-faults: '{item}' is not one of die@STEP, hang@STEP, raise@STEP, broken@STEP, oom@STEP, "
                    "nan@N, bad@N, poison@N"
                )
            values[names[name]] = int(number)
        return cls(**values)


class FakeModelRunner:
    """Implements `ModelRunner` with integers."""

    def __init__(self, model: ModelConfig, cache: CacheConfig, fake: FakeModelConfig, tokenizer_dir: Path) -> None:
        self._block_size = cache.block_size
        num_blocks = cache.num_blocks or DEFAULT_NUM_BLOCKS
        self._faults = _Faults.parse(fake.fake_faults)
        self._step_s, self._token_s = fake.fake_step_ms / 1e3, fake.fake_token_us / 1e6
        self._kv_cache = np.full(num_blocks * cache.block_size, -1, dtype=np.int32)
        self._requests: dict[RequestKey, _FakeRequest] = {}
        self._has_run_out = False
        write_fake_tokenizer(tokenizer_dir)
        self._info = ModelInfo(
            model_id="fake",
            fingerprint="fake",
            tokenizer_dir=str(tokenizer_dir),
            vocab_size=VOCAB_SIZE,
            eos_token_ids=(IM_END_ID,),
            max_model_len=min(model.max_model_len or DEFAULT_MAX_MODEL_LEN, num_blocks * cache.block_size),
            num_blocks=num_blocks,
            embedding_size=EMBEDDING_SIZE,
            dtype="int32",
            device="none",
            pooling="mean" if model.pooling == "auto" else model.pooling,
        )

    @property
    def info(self) -> ModelInfo:
        """Facts about the pretended model."""
        return self._info

    def execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Write the scheduled tokens into the cache, then derive a token for each complete request."""
        self._take_in(step)
        self._inject_faults(step)
        for item in step.scheduled:  # all writes before any read, like the layers of a model
            request = self._requests[item.key]
            request.block_ids += item.new_block_ids
            end = item.num_computed_tokens + item.num_scheduled_tokens
            slots = self._slots(request, item.num_computed_tokens, end)
            self._kv_cache[slots] = [*request.token_ids[item.num_computed_tokens : end], *item.draft_token_ids]
        output = ModelRunnerOutput()
        for item in step.scheduled:
            if item.is_last_chunk:
                self._complete(item.key, output)
            for draft_token_id in item.draft_token_ids:
                if self._requests[item.key].token_ids[-1] != draft_token_id or item.key in output.failures:
                    break
                self._complete(item.key, output)
        time.sleep(self._step_s + self._token_s * step.num_scheduled_tokens)
        return output

    def _take_in(self, step: SchedulerOutput) -> None:
        for key in step.dropped_request_keys:
            self._requests.pop(key, None)
        for new in step.new_requests:
            self._requests[new.key] = _FakeRequest(new, list(new.token_ids), list(new.block_ids))

    def _inject_faults(self, step: SchedulerOutput) -> None:
        """Before anything is written; memory runs out once, the other faults stay."""
        faults = self._faults
        if step.step == faults.die:
            os._exit(86)
        if step.step == faults.hang:
            time.sleep(1e6)
        if step.step == faults.oom and not self._has_run_out:
            self._has_run_out = True
            raise StepMemoryError("injected by fake_faults")
        is_bad = faults.bad and any(item.key % faults.bad == 0 for item in step.scheduled)
        if step.step == faults.fail or 0 < faults.broken <= step.step or is_bad:
            raise RuntimeError("injected by fake_faults")

    def _is_fatal(self, request: _FakeRequest) -> bool:
        num_output_tokens = len(request.token_ids) - request.new.num_prompt_tokens
        prompt = request.token_ids[: request.new.num_prompt_tokens]
        return 0 < self._faults.poison <= num_output_tokens + 1 and POISON in bytes(id_ % 256 for id_ in prompt)

    def _complete(self, key: RequestKey, output: ModelRunnerOutput) -> None:
        request = self._requests[key]
        if self._is_fatal(request):
            os._exit(86)
        context = self._kv_cache[self._slots(request, 0, len(request.token_ids))].tobytes()
        if self._faults.nan and key % self._faults.nan == 0:
            output.failures[key] = "nan_logits"
        elif request.new.task is Task.EMBED:
            output.embeddings[key] = _embedding(context, self._info.pooling)
        else:
            try:
                self._generate(request, context, output)
            except GrammarError as error:
                logger.info("request %d: its grammar cannot go on", key, extra={"request_key": key})
                logger.debug("the grammar of request %d: %s", key, error)  # which tells of the answer
                output.failures[key] = "grammar_error"

    def _generate(self, request: _FakeRequest, context: bytes, output: ModelRunnerOutput) -> None:
        key, params = request.new.key, request.new.sampling_params
        num_output_tokens = len(request.token_ids) - request.new.num_prompt_tokens
        may_end = num_output_tokens >= params.min_tokens
        if request.new.grammar is not None and request.matcher is None:
            request.matcher = request.new.grammar.new_matcher(request.token_ids[request.new.num_prompt_tokens :])
        allowed = _allowed_tokens(request)
        if allowed is None:
            token_id = fake_next_token(context, may_end=may_end)
        else:
            token_id = _fake_allowed_token(context, allowed, may_end=may_end)
        if request.matcher is not None:
            request.matcher.accept([token_id])
            if request.matcher.is_complete:
                output.completed_grammars.add(key)
        if num_output_tokens == 0 and params.num_prompt_logprobs >= 0:
            output.prompt_logprobs[key] = _fake_logprobs(request.token_ids, 1, params.num_prompt_logprobs)
        request.token_ids.append(token_id)
        if params.num_logprobs >= 0:
            output.logprobs[key] = _fake_logprobs(request.token_ids, len(request.token_ids) - 1, params.num_logprobs)
        if key in output.sampled_token_ids:
            output.further_token_ids.setdefault(key, []).append(token_id)
        else:
            output.sampled_token_ids[key] = token_id

    def _slots(self, request: _FakeRequest, start: int, end: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        positions = np.arange(start, end)
        blocks = np.asarray(request.block_ids, dtype=np.int64)
        return blocks[positions // self._block_size] * self._block_size + positions % self._block_size


def fake_next_token(context: bytes, *, may_end: bool = True) -> int:
    """The token after a context of int32 token ids: a letter, or EOS once in about 200 tokens."""
    number = zlib.crc32(context)
    if may_end and number % 199 == 0:
        return IM_END_ID
    return ord(_ALPHABET[number % len(_ALPHABET)])


def _allowed_tokens(request: _FakeRequest) -> set[int] | None:
    """What may come next by the grammar and by `allowed_token_ids`; None where neither is set."""
    allowed = set(request.new.sampling_params.allowed_token_ids) or None
    if request.matcher is None:
        return allowed
    words = np.zeros(-(-VOCAB_SIZE // BITS_PER_WORD), dtype=np.int32)
    request.matcher.fill_mask(words)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:VOCAB_SIZE]
    by_grammar = set(np.flatnonzero(bits).tolist())
    return by_grammar if allowed is None else allowed & by_grammar


def _fake_allowed_token(context: bytes, allowed: set[int], *, may_end: bool) -> int:
    """The token after a context where only some are allowed; raises `GrammarError` where none is."""
    candidates = [token_id for token_id in _GRAMMAR_ALPHABET if token_id in allowed]
    if IM_END_ID in allowed and may_end:
        candidates.append(IM_END_ID)
    candidates = candidates or sorted(allowed - {IM_END_ID}) or sorted(allowed)
    if not candidates:
        raise GrammarError("no token is both in the grammar and in allowed_token_ids")
    return candidates[zlib.crc32(context) % len(candidates)]


def _fake_logprobs(token_ids: Sequence[int], start: int, num_best: int) -> Logprobs:
    """Invented numbers for the tokens from `start` on: each is the best of its position, the next ids follow."""
    logprobs = Logprobs(num_best + 1, array("i"), array("i"), array("f"))
    checksum = zlib.crc32(array("i", token_ids[:start]).tobytes())
    for token_id in token_ids[start:]:
        best = -(checksum % 1000) / 1000
        logprobs.ranks.append(1)
        logprobs.token_ids.extend([token_id, *((token_id + rank) % VOCAB_SIZE for rank in range(num_best))])
        logprobs.values.extend([best, *(best - rank for rank in range(num_best))])
        checksum = zlib.crc32(array("i", [token_id]).tobytes(), checksum)
    return logprobs


def _embedding(context: bytes, pooling: str) -> list[float]:
    """Of all tokens, or of the first; the last position of a causal model has seen all, but is not their mean."""
    seed = {"mean": context, "last": context + b"last", "cls": context[:4]}[pooling]
    generator = np.random.default_rng(zlib.crc32(seed))
    vector = generator.standard_normal(EMBEDDING_SIZE)
    return [float(value) for value in vector / np.linalg.norm(vector)]


def write_fake_tokenizer(folder: Path) -> None:
    """A tokenizer whose ids 0…255 are bytes, with `<|im_start|>` and `<|im_end|>` above them."""
    folder.mkdir(parents=True, exist_ok=True)
    byte_of_character = {char: byte for byte, char in _bytes_to_unicode().items()}
    tokenizer = Tokenizer(models.BPE(vocab=byte_of_character, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE)
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>", "model_max_length": 4096}\n')


def _bytes_to_unicode() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: bytes that print stand for themselves, the rest move past 255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(NUM_BYTES) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    table.update({byte: chr(NUM_BYTES + index) for index, byte in enumerate(moved)})
    return table
