"""Checkpoints of `torch.save`: what is plain comes back, and whatever would run is refused by its name."""

import collections
import os
import pickle  # noqa: TID251 - to make what must be refused
import struct
import sys
import types
import zipfile
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine_core.model.pickle_names import PlainObject
from engine_core.model.restricted_unpickler import read_plain_pickle
from engine_core.model.torch_checkpoint import read_torch_checkpoint
from ipc.errors import ConfigError


@dataclass
class ModelConfig:
    d_model: int = 384
    names: list[str] = field(default_factory=lambda: ["a", "b"])
    dropout: float = 0.1


def test_a_state_dict_comes_back(tmp_path):
    torch.manual_seed(0)
    weights = {
        "a": torch.randn(3, 5),
        "half": torch.randn(4).bfloat16(),
        "ids": torch.arange(6).view(2, 3).t(),
        "flags": torch.tensor([True, False]),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }
    torch.save(collections.OrderedDict(weights), tmp_path / "m.pt")
    loaded = read_torch_checkpoint(tmp_path / "m.pt")
    assert list(loaded) == list(weights)
    for name, tensor in weights.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_tensors_with_one_storage_share_it(tmp_path):
    weight = torch.randn(4, 4)
    torch.save({"a": weight, "b": weight[1:]}, tmp_path / "m.pt")
    loaded = read_torch_checkpoint(tmp_path / "m.pt")
    loaded["a"][1, 0] = 7
    assert loaded["b"][0, 0] == 7


def test_a_config_of_an_unknown_class_is_read_as_its_fields(tmp_path, monkeypatch):
    module = types.ModuleType("some_training_script")
    monkeypatch.setitem(sys.modules, "some_training_script", module)
    module.ModelConfig = ModelConfig
    monkeypatch.setattr(ModelConfig, "__module__", "some_training_script")
    content = {"config": ModelConfig(d_model=512), "model_state_dict": {"w": torch.ones(2)}, "step": 7}
    torch.save(content, tmp_path / "m.pt")
    monkeypatch.delitem(sys.modules, "some_training_script")
    loaded = read_torch_checkpoint(tmp_path / "m.pt")
    fields = {"d_model": 512, "names": ["a", "b"], "dropout": 0.1}
    assert loaded["config"] == PlainObject("some_training_script.ModelConfig", fields)
    assert loaded["step"] == 7


class Runs:
    """Unpickled as a pickle should be, it makes a file."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


def payloads(canary):
    command = f"touch {canary}"
    run = Runs(os.system, command)
    return {
        "posix.system": run,
        "__builtin__.eval": Runs(eval, f"open({str(canary)!r}, 'w')"),
        "__builtin__.exec": Runs(exec, f"open({str(canary)!r}, 'w')"),
        "__builtin__.getattr": Runs(getattr, "x", "upper"),
        "io.open": Runs(open, str(canary), "w"),
        "torch.storage._load_from_bytes": Runs(torch.storage._load_from_bytes, b"x"),
        "torch.serialization.load": Runs(torch.load, str(canary)),
        "pickle.loads": Runs(pickle.loads, b"x"),
        "collections.defaultdict": collections.defaultdict(list),
        "functools.partial": Runs(__import__("functools").partial, os.system, command),
    }


@pytest.mark.parametrize("name", sorted(payloads("x")))
@pytest.mark.parametrize("place", ["alone", "in a list", "as a key", "beside weights"])
def test_what_would_run_is_refused_by_name_and_does_not(tmp_path, name, place):
    canary = tmp_path / "canary"
    bad = payloads(canary)[name]
    value = {
        "alone": lambda: bad,
        "in a list": lambda: {"x": [1, [bad]]},
        "as a key": lambda: {(1, bad): 2} if name != "collections.defaultdict" else [bad],
        "beside weights": lambda: {"w": torch.ones(2), "optimizer": bad},
    }[place]()
    torch.save(value, tmp_path / "m.pt")
    with pytest.raises(ConfigError, match="refused") as caught:
        read_torch_checkpoint(tmp_path / "m.pt")
    assert f"refused {name}" in caught.value.message
    assert "\n" not in caught.value.message
    assert not canary.exists()


def pickle_of(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def name_of(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle_of(name_of("own.module", "function"), b")R"), "a call of own.module.function"),
        (pickle_of(name_of("own.module", "function"), b"(U\x01xtR"), "a call of own.module.function"),
        (pickle_of(b"(U\x01xiown.module\nClass\n"), "the opcode INST"),
        (pickle_of(name_of("own", "Class"), b"(U\x01xt\x81"), "arguments for own.Class"),
        (pickle_of(name_of("own", "Class"), b")\x81]b"), "a state of own.Class"),
        (pickle_of(name_of("own", "Class"), b"}U\x08__call__U\x01xsb"), "a state for own.Class"),
        (pickle_of(name_of("own", "Class"), b"N}U\x08__call__U\x01xs\x86b"), "a state for own.Class"),
        (
            pickle_of(name_of("torch._utils", "_rebuild_tensor_v2"), b"}U\x01aK\x01sb"),
            "a state for torch._utils._rebuild_tensor_v2",
        ),
        (pickle_of(name_of("torch._utils", "_rebuild_tensor_v2"), b")R"), "a malformed tensor"),
        (pickle_of(name_of("torch", "FloatStorage")), "a value of the type _StorageType"),
        (pickle_of(name_of("own", "Class")), "a value of the type own.Class"),
        (pickle_of(name_of("collections", "OrderedDict"), b"}U\x04evilK\x01sb"), "a state for collections"),
        (
            pickle_of(name_of("collections", "OrderedDict"), b"N}U\x04evilK\x01s\x86b"),
            "a state for collections.OrderedDict",
        ),
        (pickle_of(b"U\x01xQ"), "a persistent id"),
        (pickle_of(name_of("posix", "system"), b"Q"), "posix.system"),
        (pickle_of(b"(ccollections\nOrderedDict\ncposix\nsystem\ntQ"), "posix.system"),
        (pickle_of(b"]q\x00h\x00a"), "without end"),
        (pickle_of(b"\x8f"), "the opcode EMPTY_SET"),
        (pickle_of(b"\x82\x01"), "the opcode EXT1"),
        (pickle_of(b"]" * 200 + b"a" * 199), "without end"),
        (pickle_of(name_of("own", "Class"), b")}\x92"), "the opcode NEWOBJ_EX"),
        (pickle_of(b"(cown\nClass\no"), "the opcode OBJ"),
        (pickle_of(b"U\x02osU\x06system\x93"), "os.system"),
        (pickle_of(b"U\x05a\nb.cU\x06system\x93"), r"the name 'a\\nb"),
        (pickle_of(b"U\x05torchU\x0cSize.__new__\x93"), r"torch\.Size\.__new__"),
        (pickle_of(b"K\x01U\x06system\x93"), "damaged"),
        (pickle_of(b"(q\x00"), "damaged"),
        (pickle_of(b"("), "damaged"),
        (b"", "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fx.", "damaged"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.", "damaged"),
    ],
)
def test_a_hand_made_pickle_is_refused(content, reason):
    with pytest.raises(ConfigError, match=reason):
        read_plain_pickle(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle_of(b"}(", b")", b"\x85" * 1_000_000, b"Nu"), "a key of the type tuple"),
        (pickle_of(b"}(", b")", b"2\x86" * 60, b"Nu"), "the opcode DUP"),
        (pickle_of(b"}(", b")", b"".join(b"q%ch%c\x86" % (n, n) for n in range(60)), b"Nu"), "a key of the type tuple"),
        (pickle_of(b"}\x8a\x0a", (2**61 - 1).to_bytes(10, "little"), b"Ns"), "a key of the type int"),
        (pickle_of(b"}G", bytes(8), b"Ns"), "a key of the type float"),
        (pickle_of(name_of("torch", "Size"), b"(", b"N" * 65, b"t\x85R"), "a call of torch.Size"),
        (pickle_of(name_of("collections", "OrderedDict"), b"]\x85R"), "a call of collections.OrderedDict"),
    ],
    ids=["deep key", "wide key by DUP", "wide key", "key with a known hash", "number as key", "copy", "copy of items"],
)
def test_a_pickle_that_would_cost_much_is_refused(content, reason):
    with pytest.raises(ConfigError, match=reason):
        read_plain_pickle(content)


def test_a_high_place_in_the_memo_takes_no_memory():
    assert read_plain_pickle(pickle_of(b"K\x07r\xff\xff\xff\xff0j\xff\xff\xff\xff")) == 7


def test_a_state_dict_of_a_module_comes_back(tmp_path):
    layer = torch.nn.Linear(2, 3)
    torch.save(layer.state_dict(), tmp_path / "m.pt")
    assert torch.equal(read_torch_checkpoint(tmp_path / "m.pt")["weight"], layer.weight)


def test_the_state_of_an_optimizer_comes_back(tmp_path):
    layer = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2)).sum().backward()
    optimizer.step()
    torch.save(
        {"optimizer": optimizer.state_dict(), "merges": {("a", "b"): 0}, "rng": torch.get_rng_state()},
        tmp_path / "m.pt",
    )
    loaded = read_torch_checkpoint(tmp_path / "m.pt")
    assert set(loaded["optimizer"]["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert loaded["merges"] == {("a", "b"): 0}


def test_lists_that_name_a_list_twice_each_do_not_grow(tmp_path):
    value = [1]
    for _ in range(40):
        value = [value, value]
    torch.save(value, tmp_path / "m.pt")
    loaded = read_torch_checkpoint(tmp_path / "m.pt")
    assert loaded[0] is loaded[1]


@given(st.binary(max_size=120))
def test_random_opcodes_give_plain_values_or_an_error(content):
    try:
        value = read_plain_pickle(b"\x80\x02" + content + b".")
    except ConfigError:
        return
    assert type(value) in (type(None), bool, int, float, str, bytes, list, tuple, dict, PlainObject)


# --- the archive ---


@pytest.fixture
def entries(tmp_path):
    """Those of a small checkpoint, and a function that writes them as a file."""
    torch.save({"w": torch.arange(6.0)}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}

    def write(compression=zipfile.ZIP_STORED, **changes):
        path = tmp_path / "changed.pt"
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in content.items():
                key = name.partition("/")[2].replace("/", "_").replace(".", "_")
                if changes.get(key, data) is not None:
                    archive.writestr(name, changes.get(key, data))
        return path

    return write


def test_the_entries_as_they_were_are_read(entries):
    assert read_torch_checkpoint(entries())["w"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data_0": b""}, "another size"),
        ({"data_0": bytes(25)}, "another size"),
        ({"data_0": None}, "another size"),
        ({"data_pkl": None}, "without one data.pkl"),
        ({"byteorder": b"big"}, "little-endian"),
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed"),
        ({"compression": zipfile.ZIP_DEFLATED, "data_0": bytes(10**6)}, "larger than the file"),
    ],
)
def test_a_damaged_archive_is_refused(entries, changes, reason):
    with pytest.raises(ConfigError, match=reason):
        read_torch_checkpoint(entries(**changes))


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [((7,), (1,), 0), ((2,), (6,), 0), ((6,), (1,), 1), ((2**40,), (0,), 0), ((-1,), (1,), 0)],
)
def test_a_tensor_beyond_its_numbers_is_refused(entries, shape, stride, offset):
    def number(value):
        return b"\x8a\x08" + struct.pack("<q", value)

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(U\x07storage" + name_of("torch", "FloatStorage") + b"U\x010U\x03cpuK\x06tQ"
    arguments = b"(" + storage + number(offset) + numbers(shape) + numbers(stride) + b"\x89Nt"
    content = pickle_of(name_of("torch._utils", "_rebuild_tensor_v2"), arguments, b"R")
    with pytest.raises(ConfigError, match=r"impossible shape|larger than its numbers"):
        read_torch_checkpoint(entries(data_pkl=content))


def test_entries_that_cannot_lie_beside_each_other_are_refused(tmp_path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickle_of(b"N"))
        for num in range(10):
            archive.writestr(f"m/data/{num}", bytes(100))
            archive.filelist[-1].file_size = archive.filelist[-1].compress_size = 1000
    with pytest.raises(ConfigError, match="larger than the file"):
        read_torch_checkpoint(path)


@pytest.mark.parametrize(
    ("good", "bad"),
    [(b"PK\x01\x02\x00\x00\x00\x00", b"PK\x01\x02\x00\x00\xff\x00"), (b"data.pkl", b"d\xffta.pkl")],
    ids=["version", "name"],
)
def test_a_directory_that_zipfile_cannot_read_is_refused(tmp_path, good, bad):
    path = tmp_path / "m.pt"
    torch.save({"a": torch.ones(3)}, path)
    changed = path.read_bytes().replace(good, bad)
    assert bad in changed
    path.write_bytes(changed)
    with pytest.raises(ConfigError, match="cannot load"):
        read_torch_checkpoint(path)


def test_numbers_that_are_named_with_two_types_are_held_once(entries):
    def tensor(storage_type):
        storage = b"(U\x07storage" + name_of("torch", storage_type) + b"U\x010U\x03cpuK\x06tQ"
        return name_of("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + b"K\x00K\x06\x85K\x01\x85\x89NtR"

    content = pickle_of(b"(" + tensor("FloatStorage") + tensor("IntStorage") + b"t")
    floats, integers = read_torch_checkpoint(entries(data_pkl=content))
    assert floats.data_ptr() == integers.data_ptr()


def test_a_number_of_items_without_end_is_refused(entries):
    size = b"\x8b" + struct.pack("<i", 10_000) + b"\x01" * 10_000
    content = pickle_of(b"(U\x07storage" + name_of("torch", "FloatStorage") + b"U\x010U\x03cpu" + size + b"tQ")
    with pytest.raises(ConfigError, match="no storage"):
        read_torch_checkpoint(entries(data_pkl=content))


def test_other_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "m.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ConfigError, match=r"no checkpoint of torch\.save"):
        read_torch_checkpoint(tmp_path / "m.pt")
    with pytest.raises(ConfigError, match="No such file"):
        read_torch_checkpoint(tmp_path / "absent.pt")
