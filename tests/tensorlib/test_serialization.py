"""torch's file format: both ways against torch, against recorded files, and against attacks."""

import collections
import io
import os
import pickle
import stat
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import tensorlib
from tensorlib import nn, optim
from tensorlib.serialization import (
    LoadError,
    SaveError,
    UnsafePickleError,
    load,
    load_safetensors,
    save,
    save_safetensors,
)

DTYPES = [
    "float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool",
    "complex64", "complex128", "uint16", "uint32", "uint64",
]  # fmt: skip


def array(dtype: str, shape: tuple[int, ...] = (3, 4)) -> np.ndarray:
    rng = np.random.default_rng(7)
    values = rng.integers(0, 2 if dtype == "bool" else 100, shape)
    return values.astype(dtype)


def archive(members: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return stream.getvalue()


def with_pickle(data: bytes, **storages: bytes) -> io.BytesIO:
    """A file as torch's with this pickle and these storages."""
    members = {"archive/data.pkl": data, "archive/byteorder": b"little"}
    members |= {f"archive/data/{key[1:]}": value for key, value in storages.items()}
    return io.BytesIO(archive({**members, "archive/version": b"3\n"}))


def tensor_pickle(
    *, size=(2, 2), stride=(2, 1), offset=0, numel=4, kind="FloatStorage", key="0", location="cpu"
) -> bytes:
    """The pickle of one tensor, written by hand."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    def numbers(values) -> bytes:
        return b"(" + b"".join(number(v) for v in values) + b"t"

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode()
    storage += text(key) + text(location) + number(numel) + b"tQ"
    body = b"(" + storage + number(offset) + numbers(size) + numbers(stride)
    body += b"\x89ccollections\nOrderedDict\n)Rt"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + body + b"R."


FLOATS = np.arange(4, dtype="<f4").tobytes()


# --- our own round trip ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 4), (), (0, 2), (1,)])
def test_round_trip_keeps_values_dtype_and_shape(dtype, shape, tmp_path):
    values = array(dtype, shape)
    save({"x": tensorlib.from_numpy(values)}, tmp_path / "x.pth")
    back = load(tmp_path / "x.pth")["x"]
    assert back.dtype is getattr(tensorlib, dtype)
    assert tuple(back.shape) == shape
    np.testing.assert_array_equal(back.numpy(), values)


def test_round_trip_of_every_kind_of_value(tmp_path):
    saved = {
        "numbers": [1, -(2**40), 2.5, 1j, True, None],
        "text": ("é", b"\x00\xff"),
        "sets": {1, 2},
        3: collections.OrderedDict(a=tensorlib.tensor([1.0])),
        "count": collections.Counter([30, 60, 60]),
        "size": tensorlib.Size([2, 3]),
        "dtype": tensorlib.float16,
        "device": tensorlib.device("cpu"),
        "parameter": nn.Parameter(tensorlib.ones(2), requires_grad=False),
        "empty": {"d": {}, "l": [], "t": (), "s": set()},
    }
    save(saved, tmp_path / "x.pth")
    back = load(tmp_path / "x.pth")
    for key in ("numbers", "text", "sets", "count", "size", "device", "empty"):
        assert back[key] == saved[key]
        assert type(back[key]) is type(saved[key])
    assert back["dtype"] is tensorlib.float16
    assert isinstance(back["parameter"], nn.Parameter)
    assert not back["parameter"].requires_grad
    assert back[3]["a"].tolist() == [1.0]


def test_shared_memory_stays_shared(tmp_path):
    base = tensorlib.arange(12).reshape(3, 4)
    save({"base": base, "row": base[1], "turned": base.t()[1:]}, tmp_path / "x.pth")
    back = load(tmp_path / "x.pth")
    back["base"][1, 2] = 100
    assert back["row"].tolist() == [4, 5, 100, 7]
    assert back["turned"].tolist() == [[1, 5, 9], [2, 100, 10], [3, 7, 11]]
    assert back["turned"].stride() == (1, 4)
    with zipfile.ZipFile(tmp_path / "x.pth") as file:
        assert [n for n in file.namelist() if "/data/" in n] == ["archive/data/0"]


def test_views_survive_a_second_round(tmp_path):
    base = tensorlib.arange(12).reshape(3, 4)
    save({"base": base, "part": base[1:, ::2]}, tmp_path / "x.pth")
    save(load(tmp_path / "x.pth"), tmp_path / "y.pth")
    assert (tmp_path / "y.pth").read_bytes() == (tmp_path / "x.pth").read_bytes()


@pytest.mark.parametrize(
    "view",
    [
        np.arange(6)[::-1],
        np.broadcast_to(np.arange(3), (2, 3)),
        np.lib.stride_tricks.sliding_window_view(np.arange(6), 3),
        np.arange(6).view("i4")[1:-1].view("i8"),
        np.zeros((4, 0)),
    ],
)
def test_odd_views_keep_their_values(view):
    stream = io.BytesIO()
    save(tensorlib.Tensor._wrap(view), stream)
    np.testing.assert_array_equal(load(stream).numpy(), view)


def test_the_same_tensor_twice_is_one_object(tmp_path):
    x = tensorlib.ones(2)
    save([x, x], tmp_path / "x.pth")
    first, second = load(tmp_path / "x.pth")
    assert first is second


def test_requires_grad_survives():
    stream = io.BytesIO()
    save([tensorlib.ones(1, requires_grad=True), tensorlib.ones(1)], stream)
    assert [x.requires_grad for x in load(stream)] == [True, False]


def test_the_bytes_depend_only_on_the_object(tmp_path):
    for name in ("a.pth", "b.pth"):
        save({"x": tensorlib.ones(3)}, tmp_path / name)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_storages_start_at_multiples_of_64(tmp_path):
    save({f"x{i}": tensorlib.ones(i + 1) for i in range(5)}, tmp_path / "x.pth")
    data = (tmp_path / "x.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.pth") as file:
        for info in file.infolist():
            header = data[info.header_offset :]
            skip = sum(struct.unpack("<HH", header[26:30]))
            assert (info.header_offset + 30 + skip) % 64 == 0


def test_loaded_tensors_can_be_written(tmp_path):
    save(tensorlib.zeros(3), tmp_path / "x.pth")
    x = load(tmp_path / "x.pth")
    x += 1
    assert x.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [1, object()]}, r"obj\['a'\]\[1\] is a builtins.object"),
        ({"a": np.str_("x")}, r"obj\['a'\] is a numpy.str_ of dtype <U1"),
        ([np.array([None])], r"obj\[0\] is a numpy.ndarray of dtype object"),
        ({"m": nn.Linear(1, 1)}, r"obj\['m'\] is a .*Linear.*state_dict"),
        (len, "builtin_function"),
    ],
)
def test_refuses_to_save_what_could_not_be_loaded(value, words, tmp_path):
    with pytest.raises(SaveError, match=words):
        save(value, tmp_path / "x.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_file(tmp_path):
    save(1, tmp_path / "x.pth")
    with pytest.raises(SaveError):
        save(object(), tmp_path / "x.pth")
    assert load(tmp_path / "x.pth") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_save_into_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .* does not exist"):
        save(1, tmp_path / "no" / "x.pth")


def test_saved_files_have_the_usual_mode(tmp_path):
    (tmp_path / "usual").touch()
    save(1, tmp_path / "x.pth")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "x.pth")]
    assert modes[0] == modes[1]


# --- files that are not what they should be ----------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"hello world", "is no zip"),
        (b"<!DOCTYPE html>", "HTML"),
        (pickle.dumps({"a": 1}), "bare pickle"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"rest", "truncated or damaged"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(7, 2), "another version"),
        (b"\x40\0\0\0\0\0\0\0{" + b" " * 70, "safetensors"),
        (archive({"a/data.pkl": b"N.", "a/constants.pkl": b"", "a/code/x.py": b""}), "TorchScript"),
        (archive({"a/b.txt": b"x"}), "no a/data.pkl"),
        (archive({"a/data.pkl": b"N.", "b/x": b""}), "under one folder"),
        (archive({"inner.zip": archive({"a/data.pkl": b"N."})}), "data.pkl under one folder"),
        (archive({"a/data.pkl": b"x" * 999}, compression=zipfile.ZIP_DEFLATED), "is compressed"),
        (archive({"a/data.pkl": b"\x80\x02"}), "damaged|truncated"),
        (archive({"a/data.pkl": b"not a pickle"}), "damaged"),
        (archive({"a/data.pkl": b"N.", "a/byteorder": b"middle"}), "byteorder"),
    ],
)
def test_says_what_a_wrong_file_is(data, words, tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    with pytest.raises(LoadError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(share, tmp_path):
    path = tmp_path / "x.pth"
    save({"x": tensorlib.ones(100)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(LoadError, match="truncated or damaged"):
        load(path)


def test_every_flipped_byte_of_a_storage_is_noticed(tmp_path):
    path = tmp_path / "x.pth"
    save({"x": tensorlib.full((8,), 3.0)}, path)
    data = bytearray(path.read_bytes())
    at = data.index(np.full(8, 3, "f4").tobytes())
    data[at + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(LoadError, match=r"archive/data/0.*checksum"):
        load(path)


def test_a_directory_and_a_missing_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a directory"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load(tmp_path / "no.pth")


def test_a_member_twice(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a/data.pkl", b"N.")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a/data.pkl", b"K\x01.")
    with pytest.raises(LoadError, match="twice"):
        load(stream)


def test_a_bomb_that_declares_more_than_the_file_has():
    data = bytearray(with_pickle(tensor_pickle(), _0=FLOATS).getvalue())
    at = data.rindex(b"archive/data/0") - 46  # its record in the central directory
    data[at + 20 : at + 28] = struct.pack("<II", 2**31, 2**31)
    with pytest.raises(LoadError, match="declare 21474"):
        load(io.BytesIO(bytes(data)))


def test_members_that_overlap_are_a_bomb_too():
    members = {f"archive/data/{i}": b"x" * 1000 for i in range(50)}
    data = bytearray(archive({"archive/data.pkl": b"N.", **members}))
    # let each record of the directory point at the first member, and cut the others out
    assert load(io.BytesIO(bytes(data))) is None
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as file:
        infos = file.infolist()
        start = file.start_dir
    end = infos[2].header_offset
    directory = bytearray(data[start:])
    for i, at in enumerate(_records(directory)):
        if i:
            directory[at + 42 : at + 46] = struct.pack("<I", infos[1].header_offset)
    tail = directory.rindex(b"PK\x05\x06")
    directory[tail + 16 : tail + 20] = struct.pack("<I", end)
    with pytest.raises(LoadError, match="declare"):
        load(io.BytesIO(bytes(data[:end] + directory)))


def _records(directory: bytes) -> list[int]:
    places, at = [], directory.find(b"PK\x01\x02")
    while at >= 0:
        places.append(at)
        at = directory.find(b"PK\x01\x02", at + 4)
    return places


# --- tensors that lie about their storage --------------------------------------------------------


def test_the_tensor_written_by_hand_is_right():
    assert load(with_pickle(tensor_pickle(), _0=FLOATS)).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (3, 2)}, "reaches item 5 of a storage of 4"),
        ({"stride": (2, 2)}, "reaches item 4"),
        ({"offset": 1}, "reaches item 4"),
        ({"offset": -1}, "offset -1"),
        ({"stride": (-2, 1)}, "stride"),
        ({"size": (-1, 2)}, "size"),
        ({"size": (2,)}, "stride"),
        ({"size": (2**62, 4), "stride": (0, 0)}, "size"),
        ({"numel": 5}, "has 16 bytes; expected 20"),
        ({"numel": 3}, "has 16 bytes; expected 12"),
        ({"numel": -4}, "no length"),
        ({"key": "1"}, "no member 'data/1'"),
        ({"key": "../data.pkl"}, "no member"),
        ({"kind": "float32"}, "has no type"),
    ],
)
def test_lies_about_a_storage_are_found(options, words):
    with pytest.raises((LoadError, UnsafePickleError), match=words):
        load(with_pickle(tensor_pickle(**options), _0=FLOATS))


def test_a_device_that_is_not_here():
    file = with_pickle(tensor_pickle(location="cuda:0"), _0=FLOATS)
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(LoadError, match=r"'cuda:0', which is not here.*map_location='cpu'"):
        load(file)
    assert load(file, map_location="cpu").tolist() == [[0, 1], [2, 3]]
    assert load(file, map_location={"cuda:0": "cpu"}).tolist() == [[0, 1], [2, 3]]
    assert load(file, tensorlib.device("cpu")).device.type == "cpu"


def test_a_function_as_map_location():
    file = with_pickle(tensor_pickle(location="cuda:0"), _0=FLOATS)
    for function in (
        lambda storage, where: storage,
        lambda storage, where: storage.cpu(),
        lambda storage, where: "cpu" if where == "cuda:0" else None,
    ):
        assert load(file, map_location=function).tolist() == [[0, 1], [2, 3]]
    if not tensorlib.cuda.is_available():
        with pytest.raises(LoadError, match="'cuda:3', which is not here"):
            load(file, map_location=lambda storage, where: storage.cuda(3))


def test_big_endian_files():
    members = {
        "archive/data.pkl": tensor_pickle(),
        "archive/byteorder": b"big",
        "archive/data/0": np.arange(4, dtype=">f4").tobytes(),
    }
    assert load(io.BytesIO(archive(members))).tolist() == [[0, 1], [2, 3]]


def test_bfloat16_is_read_exactly():
    bits = np.array([0x3F80, 0xC049, 0x7F80, 0x0001], "<u2")
    back = load(with_pickle(tensor_pickle(kind="BFloat16Storage"), _0=bits.tobytes()))
    assert back.dtype is tensorlib.bfloat16
    assert back.float().numpy().view("u4").reshape(-1).tolist() == [int(b) << 16 for b in bits]


# --- attacks -----------------------------------------------------------------------------------


class Reduce:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def attack(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


HOSTILE = {
    "os.system": pickle.dumps(Reduce(os.system, "touch owned")),
    "posix.system": attack(b"cposix\nsystem\nX\x0b\0\0\0touch owned\x85R"),
    "builtins.eval": pickle.dumps(Reduce(eval, "open('owned', 'w')"), 4),
    "builtins.getattr": pickle.dumps(Reduce(getattr, 1, "real"), 4),
    "builtins.__import__": pickle.dumps(Reduce(__import__, "os"), 4),
    "subprocess.Popen": pickle.dumps(Reduce(subprocess.Popen, ["touch", "owned"]), 4),
    "runpy.run_path": attack(b"crunpy\nrun_path\nX\x01\0\0\0x\x85R"),
    "torch.load": attack(b"ctorch\nload\nX\x01\0\0\0x\x85R"),
    "torch.hub.load": attack(b"ctorch.hub\nload\nX\x01\0\0\0x\x85R"),
    "collections.OrderedDict.__init__": attack(b"\x80\x04\x8c\x0bcollections"
                                               b"\x8c\x14OrderedDict.__init__\x93"),
    "numpy.load": attack(b"cnumpy\nload\nX\x01\0\0\0x\x85R"),
    "tensorlib.serialization.save": attack(b"ctensorlib.serialization\nsave\n)R"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = "posix.system" if name == "os.system" and os.name == "posix" else name
    with pytest.raises(UnsafePickleError, match="refuses") as caught:
        load(with_pickle(HOSTILE[name]))
    assert repr(expected) in str(caught.value)
    assert isinstance(caught.value, pickle.UnpicklingError)
    assert list(tmp_path.iterdir()) == []


ORDERED = b"ccollections\nOrderedDict\n"
TRICKS = {
    "call of an OrderedDict": ORDERED + b")R)R",
    "call of a number": b"K\x01)R",
    "call of a dtype": b"ctorch\nfloat32\n)R",
    "state of a function": b"ctorch._utils\n_rebuild_tensor_v2\n}X\x01\0\0\0ax\x4bb".replace(
        b"x\x4b", b"K\x01s"
    ),
    "attribute of an OrderedDict": ORDERED + b")R}X\x09\0\0\0__class__K\x01sb",
    "state of a dict": b"}}b",
    "instance": b"(cos\nsystem\no",
    "inst": b"(ios\nsystem\n",
    "newobj": ORDERED + b")\x81",
    "newobj_ex": ORDERED + b")}\x92",
    "extension": b"\x82\x01",
    "extension 4": b"\x84\x01\0\0\0",
    "object dtype": b"cnumpy\ndtype\nX\x02\0\0\0O8\x89\x88\x87R",
    "structured dtype": b"cnumpy\ndtype\n(X\x02\0\0\0V8\x89\x88tR",
    "append to a tuple": b")K\x01a",
    "item of a list": b"]K\x01K\x02s",
    "deep key": b"}" + b"(" * 50 + b"t" * 50 + b"K\x01s",
    "a list as key": b"}]K\x01s",
    "out of band buffer": b"\x97",
    "hooks": b"ctorch._utils\n_rebuild_parameter\nN\x88K\x01\x87R",
    "foreign persistent id": b"X\x01\0\0\0aQ",
    "persistent id in text": b"Pabc\n",
    "encode": b"c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0rot13\x86R",
}


@pytest.mark.parametrize("name", TRICKS)
def test_tricks_with_allowed_names_are_refused(name):
    with pytest.raises((UnsafePickleError, LoadError), match="load: "):
        load(with_pickle(attack(TRICKS[name])))


DAMAGED = {
    "pops a mark": b"(0(\x85",
    "no items": b"t",
    "memo": b"h\x05",
    "long text": b"X\xff\xff\xff\x7fabc",
    "negative text": b"T\xff\xff\xff\xffabc",
    "two objects": b"K\x01K\x02",
    "nothing": b"",
    "only a mark": b"(",
    "function": ORDERED,
    "odd items": b"}(K\x01u",
    "huge memo": b"K\x01r\xff\xff\xff\x7f0",
    "number": b"Ixyz\n",
    "bad utf-8": b"X\x02\0\0\0\xff\xff",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_pickles_end_in_our_error(name):
    with pytest.raises((UnsafePickleError, LoadError), match="load: "):
        load(with_pickle(attack(DAMAGED[name])))


def test_random_damage_never_escapes(tmp_path):
    """Any byte string as pickle gives a value or one of our errors, and touches nothing."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    stream = io.BytesIO()
    save(model.state_dict(), stream)
    with zipfile.ZipFile(stream) as file:
        good = file.read("archive/data.pkl")
        storages = {f"_{n[13:]}": file.read(n) for n in file.namelist() if "/data/" in n}
    rng = np.random.default_rng(0)
    outcomes = collections.Counter()
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(len(data))] = rng.integers(256)
        try:
            load(with_pickle(bytes(data), **storages))
            outcomes["loaded"] += 1
        except (LoadError, UnsafePickleError):
            outcomes["refused"] += 1
    assert outcomes["refused"] > 100


def test_loading_needs_no_torch(tmp_path):
    path = tmp_path / "x.pth"
    save({"w": tensorlib.ones(2)}, path)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from tensorlib.serialization import load, save\n"
        f"x = load({str(path)!r}); save(x, {str(tmp_path / 'y.pth')!r}); print(x['w'].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[1.0, 1.0]", done.stderr


def test_weights_only_false_runs_no_code_either(tmp_path):
    save({"w": tensorlib.ones(2), "n": 3}, tmp_path / "x.pth")
    assert load(tmp_path / "x.pth", weights_only=False, mmap=True)["n"] == 3
    with pytest.raises(UnsafePickleError, match="print"):
        load(with_pickle(b"cbuiltins\nprint\n(tR."), weights_only=False)


# --- NumPy values in old checkpoints -------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "value", [np.float64(2.5), np.int64(3), np.arange(6.0).reshape(2, 3), np.array([True]), {1, 2}]
)
def test_numpy_values_are_read(value, protocol):
    back = load(with_pickle(pickle.dumps([value, value], protocol)))
    for item in back:
        assert type(item) is type(value)
        np.testing.assert_array_equal(item, value)


def test_numpy_values_are_written(tmp_path):
    state = {
        "draws": np.random.RandomState(0).get_state(),
        "best": np.float32(0.25),
        "flags": np.array([[True, False]]),
        "turned": np.arange(6.0).reshape(2, 3).T,
    }
    save(state, tmp_path / "x.pth")
    back = load(tmp_path / "x.pth")
    assert back["draws"][0] == "MT19937"
    np.testing.assert_array_equal(back["draws"][1], state["draws"][1])
    assert type(back["best"]) is np.float32
    for key in ("best", "flags", "turned"):
        np.testing.assert_array_equal(back[key], state[key])


@pytest.mark.oracle
def test_torch_reads_the_numpy_values_we_write(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    save({"a": np.arange(4), "b": np.float64(2)}, tmp_path / "x.pth")
    back = torch.load(tmp_path / "x.pth", weights_only=False)
    assert back["a"].tolist() == [0, 1, 2, 3]
    assert back["b"] == 2


# --- against torch -----------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_reads_what_we_write(dtype, tmp_path):
    torch = pytest.importorskip("torch")
    values = array(dtype)
    save({"x": tensorlib.from_numpy(values), "t": tensorlib.from_numpy(values).t()}, tmp_path / "x")
    for mmap in (False, True):
        back = torch.load(tmp_path / "x", weights_only=True, mmap=mmap)
        assert back["x"].dtype is getattr(torch, dtype)
        np.testing.assert_array_equal(back["x"].numpy(), values)
        np.testing.assert_array_equal(back["t"].numpy(), values.T)
        assert back["t"].stride() == (1, 4)
        assert back["t"].data_ptr() == back["x"].data_ptr()


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", DTYPES)
def test_we_read_what_torch_writes(dtype, tmp_path):
    torch = pytest.importorskip("torch")
    values = array(dtype)
    x = torch.from_numpy(values)
    torch.save({"x": x, "t": x.t(), "part": x[1:, ::2]}, tmp_path / "x.pth")
    back = load(tmp_path / "x.pth")
    assert back["x"].dtype is getattr(tensorlib, dtype)
    np.testing.assert_array_equal(back["x"].numpy(), values)
    np.testing.assert_array_equal(back["t"].numpy(), values.T)
    np.testing.assert_array_equal(back["part"].numpy(), values[1:, ::2])
    assert np.shares_memory(back["x"].numpy(), back["part"].numpy())


@pytest.mark.oracle
def test_we_read_torchs_bfloat16(tmp_path):
    torch = pytest.importorskip("torch")
    x = torch.randn(5, 7).to(torch.bfloat16)
    torch.save({"x": x.t(), "dtype": torch.bfloat16}, tmp_path / "x.pth")
    back = load(tmp_path / "x.pth")
    assert back["dtype"] is back["x"].dtype is tensorlib.bfloat16
    np.testing.assert_array_equal(back["x"].float().numpy(), x.t().float().numpy())
    save({"x": back["x"][1:], "dtype": tensorlib.bfloat16}, tmp_path / "y.pth")
    again = torch.load(tmp_path / "y.pth")
    assert again["dtype"] is torch.bfloat16
    assert torch.equal(again["x"], x.t()[1:])


@pytest.mark.oracle
def test_every_kind_of_value_moves_both_ways(tmp_path):
    torch = pytest.importorskip("torch")

    def values(lib):
        return {
            "numbers": [1, -(2**40), 2.5, 1j, True, None],
            "text": ("é", b"\x00\xff"),
            "sets": {1, 2},
            3: collections.OrderedDict(a=lib.tensor([1.0])),
            "count": collections.Counter([30, 60, 60]),
            "size": lib.Size([2, 3]),
            "device": lib.device("cpu"),
            "dtype": lib.float16,
            "parameter": lib.nn.Parameter(lib.ones(2), requires_grad=False),
        }

    save(values(tensorlib), tmp_path / "ours")
    theirs = torch.load(tmp_path / "ours", weights_only=True)
    torch.save(values(torch), tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    for back, lib in ((theirs, torch), (ours, tensorlib)):
        expected = values(lib)
        for key in ("numbers", "text", "sets", "count", "size", "device", "dtype"):
            assert back[key] == expected[key]
            assert type(back[key]) is type(expected[key])
        assert back[3]["a"].tolist() == [1.0]
        assert isinstance(back["parameter"], lib.nn.Parameter)
        assert not back["parameter"].requires_grad


def _small(lib):
    return lib.nn.Sequential(lib.nn.Conv2d(1, 2, 3), lib.nn.BatchNorm2d(2), lib.nn.Linear(3, 4))


@pytest.mark.oracle
def test_state_dicts_move_both_ways(tmp_path):
    torch = pytest.importorskip("torch")
    theirs, ours = _small(torch), _small(tensorlib)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours.load_state_dict(load(tmp_path / "theirs.pth"))
    save(ours.state_dict(), tmp_path / "ours.pth")
    back = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert list(back) == list(theirs.state_dict())
    assert back._metadata == theirs.state_dict()._metadata
    for name, value in theirs.state_dict().items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value)
    theirs.load_state_dict(back)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_optimizer_state_moves_both_ways(name, tmp_path):
    torch = pytest.importorskip("torch")
    options = {"lr": 0.1} | ({"momentum": 0.9} if name == "SGD" else {})

    def make(lib, library):
        p = lib.nn.Parameter(lib.ones(3))
        optimizer = getattr(library, name)([p], **options)
        p.grad = lib.tensor([1.0, 2.0, 3.0])
        optimizer.step()
        return p, optimizer

    p, theirs = make(torch, torch.optim)
    q, ours = make(tensorlib, optim)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    save(ours.state_dict(), tmp_path / "ours.pth")
    ours.load_state_dict(load(tmp_path / "theirs.pth"))
    theirs.load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True))
    theirs.step()
    ours.step()
    np.testing.assert_allclose(q.detach().numpy(), p.detach().numpy(), rtol=1e-6)


# --- safetensors ---------------------------------------------------------------------------------


def test_safetensors_round_trip(tmp_path):
    x = tensorlib.arange(6.0).reshape(2, 3)
    save_safetensors({"x": x, "t": x.t(), "n": np.arange(3)}, tmp_path / "x.safetensors")
    back = load_safetensors(tmp_path / "x.safetensors")
    assert back["x"].tolist() == x.tolist()
    assert back["t"].tolist() == x.t().tolist()
    assert back["n"].dtype is tensorlib.int64
    back["x"] += 1


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "uint8", "bool", "int64"])
def test_safetensors_dtypes(dtype, tmp_path):
    save_safetensors({"x": tensorlib.from_numpy(array(dtype))}, tmp_path / "x")
    back = load_safetensors(tmp_path / "x")["x"]
    assert back.dtype is getattr(tensorlib, dtype)
    np.testing.assert_array_equal(back.numpy(), array(dtype))


def test_safetensors_bfloat16(tmp_path):
    header = b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    data = np.array([0x3F80, 0xC049], "<u2").tobytes()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + data)
    back = load_safetensors(tmp_path / "x")["x"]
    assert back.dtype is tensorlib.bfloat16
    assert back.tolist() == [1.0, -3.140625]
    save_safetensors({"x": back}, tmp_path / "y")
    assert load_safetensors(tmp_path / "y")["x"].tolist() == [1.0, -3.140625]


def test_damaged_safetensors(tmp_path):
    save_safetensors({"x": tensorlib.ones(9)}, tmp_path / "x")
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-4])
    with pytest.raises(LoadError, match="damaged or is no safetensors"):
        load_safetensors(tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_safetensors(tmp_path / "y")
