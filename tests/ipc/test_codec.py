import base64
import contextlib
from array import array
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc import codec
from ipc.errors import ProtocolError
from ipc.messages import (
    PROTOCOL_VERSION,
    Abort,
    Add,
    Bye,
    Call,
    CallMethod,
    ClientMetrics,
    ClientRole,
    CoreBeat,
    CoreState,
    Finished,
    FinishReason,
    Hello,
    Load,
    MessageKind,
    Reply,
    RequestId,
    Started,
    Step,
    Task,
)
from ipc.sampling_params import (
    MAX_ALLOWED_TOKEN_IDS,
    MAX_BAD_WORD_TOKENS,
    MAX_BAD_WORDS,
    MAX_LOGIT_BIASES,
    MAX_STOP_TOKEN_IDS,
    SamplingParams,
    TokenBias,
)
from ipc.structured_output import MAX_SPEC_BYTES, GrammarKind, StructuredOutput
from ipc.tokenizer_files import PIECE_BYTES

ADD = Add(
    request_id=RequestId(7),
    prompt_token_ids=array("i", [1, 2, 300]),
    sampling_params=SamplingParams(max_tokens=5, temperature=0.5, seed=-9, stop_token_ids=(3,)),
    arrival_time_us=1_700_000_000_000_000,
    cache_salt="s",
)
NAMED_ADD = replace(ADD, external_ids=("chatcmpl-1", "x"), adapter="sql")
STEP = Step(
    sequence=4,
    step=9,
    request_ids=array("Q", [7, 8]),
    token_ids=array("i", [42, 43]),
    finished=(Finished(RequestId(8), FinishReason.LENGTH, num_prompt_tokens=3, num_output_tokens=5),),
    load=Load(1, 2, 3, 4, 5, 6),
    started=(Started(RequestId(7), num_cached_tokens=64),),
)


def parts_of(message):
    """The parts as they are sent."""
    return [bytes(part) for part in codec.split_parts(codec.encode(message, epoch=1))]


def add_of(*parts):
    """An ADD of these parts."""
    return codec.join_parts(MessageKind.ADD, 1, parts)


def test_bytes_of_an_add_are_pinned():
    assert codec.encode(ADD, epoch=258).hex() == "".join([
        "03" "02" "0201000000000000",  # kind, version, epoch
        "02000000" "68000000" "0c000000",  # number of parts, their lengths
        "9e" "07"  # request_id
        "dc0013" "05" "00" "cb3fe0000000000000" "cb3ff0000000000000" "00" "cb0000000000000000" "f7" "9103" "c2"
        "cb0000000000000000" "cb0000000000000000" "cb3ff0000000000000" "90" "90" "90" "ff" "ff" "9200a0"
        "cb0000000000000000"  # top_n_sigma
        "01" "cf00060a24181e4000" "00" "a0" "a173" "00" "01" "00" "00" "90" "a0" "a0",
        "01000000" "02000000" "2c010000",
    ])  # fmt: skip


def test_bytes_of_a_step_are_pinned():
    assert codec.encode(STEP, epoch=1).hex() == "".join([
        "05" "02" "0100000000000000",
        "03000000" "1e000000" "10000000" "08000000",
        "95" "04" "09"
        "91" "9b" "08" "02" "03" "05" "00" "ff" "a0" "a0" "00" "00" "00"  # finished
        "96" "01" "02" "03" "04" "05" "06"  # load
        "91" "95" "07" "40" "00" "00" "00",  # started
        "0700000000000000" "0800000000000000",
        "2a000000" "2b000000",
    ])  # fmt: skip


def test_bytes_of_logprobs_in_a_step_are_pinned():
    step = replace(
        STEP,
        logprob_request_ids=array("Q", [7]),
        logprob_counts=array("i", [2]),
        logprob_ranks=array("i", [3]),
        logprob_token_ids=array("i", [42, 5]),
        logprobs=array("f", [-2.0, -0.5]),
    )
    assert [part.hex() for part in parts_of(step)[3:]] == [
        "",  # embedding_request_ids
        "",  # embeddings
        "0700000000000000",
        "02000000",
        "03000000",
        "2a000000" "05000000",
        "000000c0" "000000bf",
    ]  # fmt: skip
    assert codec.decode_core_message(codec.encode(step, epoch=1)) == step


def test_bytes_of_a_call_for_a_piece_of_the_tokenizer_are_pinned():
    call = Call(5, CallMethod.TOKENIZER, {"file": "tokenizer.json", "offset": 524288})
    assert parts_of(call)[0].hex() == "".join([
        "93" "05" "0a" "82" "a466696c65" "ae746f6b656e697a65722e6a736f6e" "a66f6666736574" "ce00080000",
    ])  # fmt: skip
    assert parts_of(Reply(5, {"data": "YWJj"}))[0].hex() == "930581a464617461a459574a6aa0"


@pytest.mark.parametrize(
    "message",
    [
        ADD,
        NAMED_ADD,
        Call(5, CallMethod.TOKENIZER, {"file": "tokenizer.json", "offset": 2**40}),
        Hello("f", ClientRole.FRONTEND, 1, 2, 3),
        Abort(array("Q", [2**64 - 1])),
        ClientMetrics({"a\x1fb": 3, "c": 0.5}, {"d": 2}),
    ],
)
def test_client_messages_survive_the_wire(message):
    assert codec.decode_client_message(codec.encode(message, epoch=1)) == message


@pytest.mark.parametrize(
    "message",
    [
        STEP,
        Reply(1, {"a": 1, "b": 0.5, "c": "x"}),
        Reply(2, {"data": base64.b64encode(bytes(PIECE_BYTES)).decode()}),
        CoreBeat(1, CoreState.READY, 2, 3, step_allowance_ms=30_000),
        Bye("drained"),
    ],
)
def test_core_messages_survive_the_wire(message):
    assert codec.decode_core_message(codec.encode(message, epoch=1)) == message


def test_a_field_that_an_older_writer_does_not_send_takes_its_default():
    body, prompt = parts_of(ADD)
    shorter = msgpack.packb(msgpack.unpackb(body)[:3])
    assert codec.decode_client_message(add_of(shorter, prompt)).cache_salt == ""


def test_a_beat_of_an_older_core_allows_a_step_nothing_in_particular():
    beat = CoreBeat(1, CoreState.READY, 2, 3, step_allowance_ms=30_000)
    [body] = parts_of(beat)
    assert msgpack.unpackb(body) == [1, 2, 2, 3, [0, 0, 0, 0, 0, 0], "", 30_000]
    older = codec.decode_core_message(codec.join_parts(MessageKind.BEAT, 1, [msgpack.packb(msgpack.unpackb(body)[:6])]))
    assert isinstance(older, CoreBeat)
    assert older.step_allowance_ms == 0


def test_a_field_that_a_newer_writer_appends_is_ignored():
    body, prompt = parts_of(ADD)
    longer = msgpack.packb([*msgpack.unpackb(body), "from the future"])
    assert codec.decode_client_message(add_of(longer, prompt, b"buffer")) == ADD


def test_a_required_field_must_be_there():
    _, prompt = parts_of(ADD)
    with pytest.raises(ProtocolError, match="sampling_params is missing"):
        codec.decode_client_message(add_of(msgpack.packb([7]), prompt))


def test_another_protocol_version_is_refused_by_name():
    with pytest.raises(ProtocolError, match="protocol version 99"):
        codec.decode_client_message(codec.join_parts(MessageKind.ADD, 1, parts_of(ADD), version=99))


def test_another_protocol_version_is_known_whatever_follows_its_header():
    with pytest.raises(ProtocolError, match="protocol version 1, this side speaks 2"):
        codec.decode_core_message(bytes([MessageKind.STEP, 1]) + bytes(8))


def test_a_message_of_the_wrong_direction_is_refused():
    with pytest.raises(ProtocolError, match="unknown message kind"):
        codec.decode_core_message(codec.encode(ADD, epoch=1))


@pytest.mark.parametrize(
    ("index", "value"), [(0, True), (0, "7"), (2, 9), (3, 1.5), (5, b"bytes"), (6, None), (1, "params"), (1, [])]
)
def test_a_field_of_a_wrong_type_is_refused(index, value):
    body, prompt = parts_of(ADD)
    values = msgpack.unpackb(body)
    values[index] = value
    with pytest.raises(ProtocolError):
        codec.decode_client_message(add_of(msgpack.packb(values), prompt))


@pytest.mark.parametrize(
    "body",
    [
        msgpack.packb(msgpack.ExtType(1, b"code")),
        msgpack.packb({1: 2}),
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000,
        msgpack.packb("x" * (codec.MAX_STRING_BYTES + 1)),
        b"",
        b"\xc1",
        msgpack.packb(7) + b"\0",
    ],
    ids=["extension", "map", "huge array", "deep", "long string", "empty", "never used", "trailing"],
)
def test_a_hostile_body_is_refused(body):
    _, prompt = parts_of(ADD)
    with pytest.raises(ProtocolError):
        codec.decode_client_message(add_of(body, prompt))


def test_a_buffer_that_is_no_whole_array_is_refused():
    body, prompt = parts_of(ADD)
    with pytest.raises(ProtocolError, match="prompt_token_ids"):
        codec.decode_client_message(add_of(body, prompt + b"\0"))


def test_every_message_cut_off_or_longer_is_refused():
    data = codec.encode(ADD, epoch=1)
    for length in range(len(data)):
        with pytest.raises(ProtocolError):
            codec.decode_client_message(data[:length])
    with pytest.raises(ProtocolError, match=f"parts up to byte {len(data)} in a message of {len(data) + 1}"):
        codec.decode_client_message(data + b"\0")


@pytest.mark.parametrize("num_parts", [0, codec.MAX_PARTS + 1, 2**32 - 1])
def test_a_number_of_parts_that_no_message_has_is_refused(num_parts):
    header = codec.encode(ADD, epoch=1)[:10]
    with pytest.raises(ProtocolError, match=f"{num_parts} parts"):
        codec.decode_client_message(header + num_parts.to_bytes(4, "little") + bytes(1000))


def test_a_message_may_be_any_buffer():
    assert codec.decode_client_message(memoryview(codec.encode(ADD, epoch=1))) == ADD


def test_a_prompt_of_four_million_tokens_fits_with_all_that_a_request_may_have():
    params = SamplingParams(
        max_tokens=2**31,
        stop_token_ids=(2**31,) * MAX_STOP_TOKEN_IDS,
        allowed_token_ids=(2**31,) * MAX_ALLOWED_TOKEN_IDS,
        logit_bias=(TokenBias(2**31, 0.5),) * MAX_LOGIT_BIASES,
        bad_words_token_ids=((2**31,) * MAX_BAD_WORD_TOKENS,) * MAX_BAD_WORDS,
        structured_output=StructuredOutput(GrammarKind.LARK, "x" * MAX_SPEC_BYTES),
    )
    add = replace(ADD, prompt_token_ids=array("i", bytes(4 * 2**22)), sampling_params=params, cache_salt="x" * 4096)
    assert len(codec.encode(add, epoch=1)) < codec.MAX_CLIENT_FRAME_BYTES


@given(st.binary(max_size=200))
def test_junk_raises_nothing_but_protocol_errors(data):
    with pytest.raises(ProtocolError):
        codec.decode_client_message(data)


@given(st.integers(0, 20), st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 20), max_size=20), st.binary())
def test_junk_lengths_raise_nothing_but_protocol_errors(kind, numbers, rest):
    data = bytes([kind, PROTOCOL_VERSION]) + bytes(8) + b"".join(number.to_bytes(4, "little") for number in numbers)
    with contextlib.suppress(ProtocolError):
        codec.decode_client_message(data + rest)


@given(st.integers(0, 20), st.binary(max_size=300), st.lists(st.binary(max_size=40), max_size=4))
def test_junk_behind_a_good_header_raises_nothing_but_protocol_errors(kind, body, buffers):
    try:
        codec.decode_client_message(codec.join_parts(kind, 0, [body, *buffers]))
    except ProtocolError:
        return
    assert kind in (1, 4, 7, 9, 10, 13), "only a message that needs little can be hit by chance"


@given(
    st.integers(1, 2**63 - 1), st.lists(st.integers(0, 2**31 - 1), min_size=1), st.floats(0, 2), st.sampled_from(Task)
)
def test_any_add_survives_the_wire(request_id, prompt, temperature, task):
    params = SamplingParams(max_tokens=1, temperature=temperature)
    add = Add(RequestId(request_id), array("i", prompt), params, task=task)
    assert codec.decode_client_message(codec.encode(add, epoch=3)) == add
