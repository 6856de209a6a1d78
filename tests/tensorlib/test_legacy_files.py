"""torch's format before 1.6: a recorded file, files that torch writes now, and damaged ones."""

import base64
import io
import pickle
import zlib

import numpy as np
import pytest

from tensorlib.serialization import LoadError, UnsafePickleError, load

# OrderedDict(a=x, t=x.t(), n=tensor(7), h=tensor([1.5], float16)) with x = arange(6.) as 2 by 3
RECORDED = zlib.decompress(
    base64.b85decode(
        "c-n1}%We}f6o%)P1Pm>O7D~C6OQp#sYNl<PY@iENA(`v2@dk~CiRnybjdNzsR063|HblTPuwcon@d!v=^f(g=m15b)"
        "^6~Na|FS)HzB6_5WB<?k;jcGqow4)sw@dLDEMF{HmNhCg>O`yPNET(LbFisEEYOb15S5H%KFs1AoUejW5<iV(RA!%L"
        "3GOj?zGzUgOm%_K;Er%<mE{Oc?g`H@bbbIW?o}0OCM2U|f}~Qi*Tqm4a`-Gukb%_>!S;nsCt`3C)J2kZq6#xrvZ#<B"
        "s!R<dlzFL(=qO;|`o3rxVXBM|BzW}^wy$)I@9HFjhFGMU!FF#q==KKP?f%wI0L`h#WK@x@<|~8?Z@I-C?oQw$cey<Q"
        "_ANDbE+JeFVPWbCVKF7i)Jx|gucS3<$)H^BOyDZF4e?ryT1Hq2;rbMn!;Km>bNqrX=*;lyKl)~WE9ee(dVRP_bergF"
        "L~pli;w^;RA>5e~Q@DGM_&io0&xrTV6N62f;QoxbZv5I`;DHGbYw{z6$02N(=X!6x$Q(oVJf<`6VqDoV4oz##=D%y}"
        "Nz?kjjh|B3qfTQ?<LBNffa0p_"
    )
)


def test_the_recorded_file():
    found = load(io.BytesIO(RECORDED))
    assert list(found) == ["a", "t", "n", "h"]
    np.testing.assert_array_equal(found["a"].numpy(), np.arange(6, dtype="f").reshape(2, 3))
    found["a"][1, 2] = 50
    assert found["t"].tolist() == [[0, 3], [1, 4], [2, 50]]  # one memory
    assert found["n"].item() == 7
    assert (str(found["h"].dtype), found["h"].tolist()) == ("tensorlib.float16", [1.5])


@pytest.mark.parametrize("size", [20, 100, 400, len(RECORDED) - 20, len(RECORDED) - 1])
def test_a_truncated_file(size):
    with pytest.raises(LoadError, match=r"truncated|damaged"):
        load(io.BytesIO(RECORDED[:size]))


def test_another_length_of_a_storage():
    tail = (1).to_bytes(8, "little") + np.float16(1.5).tobytes()
    at = RECORDED.index(tail)
    longer = RECORDED[:at] + (1 << 40).to_bytes(8, "little") + RECORDED[at + 8 :]
    with pytest.raises(LoadError, match="1099511627776 items of 2 bytes"):
        load(io.BytesIO(longer))


def test_no_code_of_the_file_runs():
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    head = b"".join(
        pickle.dumps(part, 2)
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, Evil(), [])
    )
    with pytest.raises(UnsafePickleError, match="print"):
        load(io.BytesIO(head))


def test_another_byte_order_is_refused():
    head = b"".join(
        pickle.dumps(part, 2)
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": False}, {}, [])
    )
    with pytest.raises(LoadError, match="not little-endian"):
        load(io.BytesIO(head))


@pytest.mark.oracle
def test_files_of_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle; make oracle installs it")
    kinds = ("float64", "bfloat16", "int8", "bool", "complex64")
    values = {name: torch.arange(12).reshape(3, 4).to(getattr(torch, name)) for name in kinds}
    values["view"] = values["float64"][1:, ::2]
    values["parameter"] = torch.nn.Parameter(torch.ones(2))
    values["empty"] = torch.empty(0, 3)
    file = io.BytesIO()
    torch.save(values, file, _use_new_zipfile_serialization=False)
    found = load(file)
    for name, value in values.items():
        assert str(found[name].dtype).rpartition(".")[2] == str(value.dtype).rpartition(".")[2]
        assert found[name].requires_grad == value.requires_grad
        assert found[name].tolist() == value.tolist(), name
