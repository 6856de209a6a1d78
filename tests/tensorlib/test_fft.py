"""Fourier transforms and spectrograms beside torch and against their definitions."""

import numpy as np
import pytest

import tensorlib
from tensorlib.autograd import gradcheck, gradgradcheck

from .side import equal, normal, refused_alike

ONE = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
REAL = ("rfft", "ihfft")
OPTIONS = [
    {},
    {"n": 5, "dim": 0, "norm": "ortho"},
    {"n": 2, "norm": "forward"},
    {"dim": 1, "norm": "backward"},
]
SEVERAL = [
    {},
    {"s": (2, 5), "norm": "ortho"},
    {"dim": (2, 0), "norm": "forward"},
    {"s": (-1, 3), "dim": (0, 1)},
]


def signal(name, *shape):
    return normal(*shape, kind="float64" if name.startswith(REAL) else "complex128")


@pytest.mark.oracle
@pytest.mark.parametrize("options", range(len(OPTIONS)))
@pytest.mark.parametrize("name", ONE)
def test_one_dimension_as_torch(name, options):
    equal(
        lambda L, x: getattr(L.fft, name)(x, **OPTIONS[options]),
        [signal(name, 3, 4)],
    )


@pytest.mark.oracle
@pytest.mark.parametrize("options", range(len(SEVERAL)))
@pytest.mark.parametrize("name", [f"{name}{end}" for name in ONE for end in ("2", "n")])
def test_several_dimensions_as_torch(name, options):
    equal(
        lambda L, x: getattr(L.fft, name)(x, **SEVERAL[options]),
        [signal(name, 3, 4, 3)],
    )


@pytest.mark.oracle
@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("kind", ["float32", "complex64", "int64", "bool"])
def test_types_are_torchs(name, kind):
    if kind == "complex64" and name in REAL:
        refused_alike(lambda L: getattr(L.fft, name)(L.ones(3, dtype=L.complex64)))
        return
    array = normal(6, kind="complex64") if kind == "complex64" else np.arange(6).astype(kind)
    equal(lambda L, x: getattr(L.fft, name)(x), [array], second=False, tolerance=1e-5)


@pytest.mark.parametrize("name", [*ONE, "fftn", "irfft2", "ihfft2"])
def test_derivatives_are_those_of_differences(name):
    x = tensorlib.tensor(signal(name, 3, 4), requires_grad=True)
    for check in (gradcheck, gradgradcheck):
        assert check(getattr(tensorlib.fft, name), [x], fast_mode=True)


def test_transform_is_the_sum_of_exponentials():
    x = normal(7, kind="complex128")
    k = np.arange(7)
    expected = np.exp(-2j * np.pi * np.outer(k, k) / 7) @ x
    found = tensorlib.fft.fft(tensorlib.tensor(x))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("forth", "back"), list(zip(ONE[::2], ONE[1::2], strict=True)))
@pytest.mark.parametrize("norm", ["backward", "ortho", "forward"])
def test_inverses_undo(forth, back, norm):
    x = tensorlib.tensor(signal(forth, 2, 6))
    if forth == "hfft":  # the first half of a symmetric signal: real at its ends
        x = tensorlib.fft.ihfft(tensorlib.tensor(normal(2, 10)))
    through = getattr(tensorlib.fft, forth)(x, norm=norm)
    again = getattr(tensorlib.fft, back)(through, norm=norm)
    np.testing.assert_allclose(again.numpy(), x.numpy(), atol=1e-12)


REFUSED = {
    "half precision": lambda L: L.fft.fft(L.ones(4).half()),
    "no points": lambda L: L.fft.fft(L.ones(4), n=0),
    "a float size": lambda L: L.fft.fft(L.ones(4), n=2.0),
    "an unknown norm": lambda L: L.fft.ifft(L.ones(4), norm="orto"),
    "no such dim": lambda L: L.fft.fft(L.ones(4), dim=1),
    "a number": lambda L: L.fft.fft(L.ones(())),
    "a dim twice": lambda L: L.fft.fftn(L.ones(4, 4), dim=(0, 0)),
    "sizes and dims": lambda L: L.fft.fftn(L.ones(4, 4), s=(2,), dim=(0, 1)),
    "more sizes than dims": lambda L: L.fft.fftn(L.ones(4), s=(2, 2)),
    "nothing to halve": lambda L: L.fft.rfftn(L.ones(4), dim=()),
    "integer frequencies": lambda L: L.fft.fftfreq(4, dtype=L.int64),
    "complexity unsaid": lambda L: L.stft(L.ones(20), 8),
    "a window too long": lambda L: L.stft(L.ones(20), 8, win_length=9, return_complex=True),
    "a window of another size": lambda L: L.stft(
        L.ones(20), 8, window=L.ones(4), return_complex=True
    ),
    "frames beyond the signal": lambda L: L.stft(L.ones(20), 30, center=False, return_complex=True),
    "no step": lambda L: L.stft(L.ones(20), 8, hop_length=0, return_complex=True),
    "integers": lambda L: L.stft(L.ones(20).long(), 8, return_complex=True),
    "a real spectrogram": lambda L: L.istft(L.ones(5, 4), 8),
    "other frequencies": lambda L: L.istft(L.ones(5, 4) + 0j, 10),
    "a window of zeros": lambda L: L.istft(L.ones(5, 4) + 0j, 8, window=L.zeros(8)),
}


@pytest.mark.oracle
@pytest.mark.parametrize("what", REFUSED)
def test_refusals_are_torchs(what):
    refused_alike(REFUSED[what])


SPECTROGRAMS = [
    {"n_fft": 8, "return_complex": True},
    {"n_fft": 8, "return_complex": False, "normalized": True, "pad_mode": "constant"},
    {"n_fft": 9, "hop_length": 3, "center": False, "onesided": False, "return_complex": True},
    {"n_fft": 8, "win_length": 5, "return_complex": True},
    {"n_fft": 8, "win_length": 5, "center": False, "align_to_window": True, "return_complex": True},
]


@pytest.mark.oracle
@pytest.mark.parametrize("number", range(len(SPECTROGRAMS)))
@pytest.mark.parametrize("kind", ["float64", "complex128"])
def test_spectrograms_as_torch(number, kind):
    options = dict(SPECTROGRAMS[number])
    if kind == "complex128":
        options["onesided"] = False
    size = options.get("win_length", options["n_fft"])

    def call(library, x, w):
        return library.stft(x, window=w, **options)

    equal(call, [normal(2, 30, kind=kind), np.hanning(size + 2)[1:-1]])


@pytest.mark.oracle
@pytest.mark.parametrize(
    "options",
    [{}, {"center": False}, {"length": 21}, {"onesided": False}, {"normalized": True}],
    ids=str,
)
def test_inverse_spectrograms_as_torch(options):
    bins = 8 if options.get("onesided") is False else 5

    def call(library, x, w):
        return library.istft(x, 8, window=w, **options)

    equal(call, [normal(2, bins, 9, kind="complex128"), np.hamming(8)])


def test_a_signal_comes_back_from_its_spectrogram():
    x = tensorlib.tensor(normal(3, 64))
    window = tensorlib.hann_window(16, dtype=tensorlib.float64)
    through = tensorlib.stft(x, 16, window=window, return_complex=True)
    again = tensorlib.istft(through, 16, window=window, length=64)
    np.testing.assert_allclose(again.numpy(), x.numpy(), atol=1e-12)


def test_a_length_beyond_the_frames_is_filled_with_zeros_and_said():
    through = tensorlib.stft(tensorlib.ones(20), 8, return_complex=True)
    with pytest.warns(UserWarning, match="shorter than the length"):
        again = tensorlib.istft(through, 8, length=40)
    assert again.shape == (40,)
    assert not again[24:].any()


@pytest.mark.oracle
@pytest.mark.parametrize("call", ["fftfreq", "rfftfreq"])
@pytest.mark.parametrize("n", [0, 1, 4, 7])
def test_frequencies_as_torch(call, n):
    equal(lambda L: getattr(L.fft, call)(n, 0.2), [], tolerance=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("dim", [None, 1, (0, -1)])
def test_shifts_as_torch(dim):
    equal(lambda L, x: [L.fft.fftshift(x, dim), L.fft.ifftshift(x, dim)], [normal(3, 4)])
