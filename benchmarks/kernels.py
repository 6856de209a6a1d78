"""Kernels against PyTorch's on the same CPU: times, ratio, and what of the machine they reach.

    python benchmarks/kernels.py [--rounds 15] [--only PART ...] [--threads 2]

Both libraries compute the same call by turns in one process, float32; printed are medians in
milliseconds, the median of the ratios torch / ours (above 1: faster than PyTorch), and what ours
moves or computes per second, also as a share of the ceiling measured in the same run: a large copy
by all threads (read and written bytes counted; what stays in the cache may exceed it), a large
product of matrices.
Bytes are those a perfect kernel would move: each input read once, each output written once.

A case is a name, a function that builds the call from a library, and its bytes and operations; add
one to CASES to have it measured.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import tensorlib
from tensorlib.nn.fusion import norm_relu
from tensorlib.vision.transforms import ImageClassification

torch: Any = None
if importlib.util.find_spec("torch"):
    import torch

Call = Callable[[], Any]
PAUSE_S = 0.02  # the waiting threads of the other library sleep by then
M = 1 << 20


@dataclass(frozen=True)
class Case:
    """One line: `build(library)` gives the call; `moved` bytes, `computed` operations of one."""

    name: str
    build: Callable[[Any], Call]
    moved: float = 0.0
    computed: float = 0.0


CASES: list[Case] = []


def draw(library: Any, *shape: int, grad: bool = False, last: bool = False) -> Any:
    """The same normal numbers for each library; `last` lays channels out innermost."""
    made = library.tensor(np.random.default_rng(0).standard_normal(shape, np.float32))
    if last:
        made = made.contiguous(memory_format=library.channels_last)
    return made.requires_grad_() if grad else made


def case(name: str, moved: float = 0.0, computed: float = 0.0) -> Callable[[Any], Any]:
    """Add a case built by the decorated function."""

    def add(build: Callable[[Any], Call]) -> Callable[[Any], Call]:
        CASES.append(Case(name, build, moved, computed))
        return build

    return add


def forward(name: str, function: Callable[..., Any], *shapes: Any, moved: float = 0.0,
            computed: float = 0.0, last: bool = False) -> None:  # fmt: skip
    """Add the case `function(functional, *tensors)` without history."""

    def build(library: Any) -> Call:
        given = [draw(library, *s, last=last) for s in shapes]

        def call() -> Any:
            with library.no_grad():
                return function(library.nn.functional, *given)

        return call

    CASES.append(Case(name, build, moved, computed))


def backward(name: str, function: Callable[..., Any], *shapes: Any, moved: float = 0.0,
             computed: float = 0.0, last: bool = False) -> None:  # fmt: skip
    """Add the case of the gradients of `function(functional, *tensors)` alone."""

    def build(library: Any) -> Call:
        given = [draw(library, *s, grad=True, last=last) for s in shapes]
        output = function(library.nn.functional, *given)
        seed = library.ones_like(output) * 0.5
        return lambda: library.autograd.grad(output, given, seed, retain_graph=True)

    CASES.append(Case(name, build, moved, computed))


def step(name: str, build: Callable[[Any], tuple[list[Any], Call]], moved: float = 0.0,
         computed: float = 0.0) -> None:  # fmt: skip
    """Add the case of a loss, its gradients and their accumulation into fresh leaves:
    `build(library)` gives the leaves and the function that computes the loss.
    """

    def both(library: Any) -> Call:
        leaves, loss = build(library)

        def call() -> None:
            for leaf in leaves:
                leaf.grad = None
            loss().backward()

        return call

    CASES.append(Case(name, both, moved, computed))


# -- element by element ----------------------------------------------------------------------------

N = (4 * M,)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "relu": lambda F, x: F.relu(x),
    "gelu": lambda F, x: F.gelu(x),
    "gelu tanh": lambda F, x: F.gelu(x, approximate="tanh"),
    "silu": lambda F, x: F.silu(x),
    "sigmoid": lambda F, x: x.sigmoid(),
    "tanh": lambda F, x: x.tanh(),
    "mish": lambda F, x: F.mish(x),
    "softplus": lambda F, x: F.softplus(x),
    "elu": lambda F, x: F.elu(x),
    "hardswish": lambda F, x: F.hardswish(x),
    "leaky_relu": lambda F, x: F.leaky_relu(x, 0.1),
}
for _name, _function in FUNCTIONS.items():
    forward(f"{_name} 4M", _function, N, moved=8 * N[0])
    backward(f"{_name} 4M backward", _function, N, moved=12 * N[0])
forward("relu_ 4M", lambda F, x: x.relu_(), N, moved=8 * N[0])
forward("a + b 4M", lambda F, a, b: a + b, N, N, moved=12 * N[0])
forward("a += b 4M", lambda F, a, b: a.add_(b), N, N, moved=12 * N[0])
forward("a * 2 4M", lambda F, a: a * 2.0, N, moved=8 * N[0])
forward("add bias 4096x1024", lambda F, a, b: a + b, (4096, 1024), (1024,), moved=8 * N[0])
forward("dropout 4M", lambda F, x: F.dropout(x, 0.1), N, moved=12 * N[0])
backward("dropout 4M backward", lambda F, x: F.dropout(x, 0.1), N, moved=12 * N[0])


# -- rows ------------------------------------------------------------------------------------------


def _cross_entropy(rows: int, classes: int) -> Callable[[Any], tuple[list[Any], Call]]:
    def build(library: Any) -> tuple[list[Any], Call]:
        x = draw(library, rows, classes, grad=True)
        t = library.tensor(np.random.default_rng(1).integers(0, classes, rows))
        return [x], lambda: library.nn.functional.cross_entropy(x, t)

    return build


for _size in ((256, 1000), (64, 32000), (2048, 32000)):
    _count, _form = _size[0] * _size[1], f"{_size[0]}x{_size[1]}"
    forward(f"softmax {_form}", lambda F, x: F.softmax(x, -1), _size, moved=8 * _count)
    backward(f"softmax {_form} backward", lambda F, x: F.softmax(x, -1), _size, moved=12 * _count)
    forward(f"log_softmax {_form}", lambda F, x: F.log_softmax(x, -1), _size, moved=8 * _count)
    step(f"cross entropy {_form} both", _cross_entropy(*_size), moved=16 * _count)
_image = (16, 21, 128, 128)
forward(
    "softmax 16x21x128x128 dim 1", lambda F, x: F.softmax(x, 1), _image, moved=8 * 16 * 21 * 2**14
)


def _embedding(library: Any) -> tuple[list[Any], Call]:
    table = draw(library, 50000, 256, grad=True)
    rows = library.tensor(np.random.default_rng(1).integers(0, 50000, 8192))
    return [table], lambda: library.nn.functional.embedding(rows, table).sum()


step("embedding 50000x256, 8192 both", _embedding, moved=4 * 256 * (50000 + 4 * 8192))


# -- normalisation, pooling, convolution, attention, recurrence, optimizers ------------------------


def _layer_norm(F: Any, x: Any, w: Any, b: Any) -> Any:
    return F.layer_norm(x, (x.shape[-1],), w, b)


_norm = ((4096, 1024), (1024,), (1024,))
forward("layer norm 4096x1024", _layer_norm, *_norm, moved=8 * N[0])
backward("layer norm 4096x1024 backward", _layer_norm, *_norm, moved=12 * N[0])
_norm = ((2048, 256), (256,), (256,))
forward("layer norm 2048x256", _layer_norm, *_norm, moved=8 * M // 2)
backward("layer norm 2048x256 backward", _layer_norm, *_norm, moved=12 * M // 2)


def _batch_norm(F: Any, x: Any, w: Any, b: Any) -> Any:
    return F.batch_norm(x, None, None, w, b, True)


def _batch_case(library: Any) -> tuple[list[Any], Call]:
    x = draw(library, 16, 256, 56, 56, last=True).requires_grad_()
    w, b = draw(library, 256, grad=True), draw(library, 256, grad=True)
    seed = draw(library, 16, 256, 56, 56, last=True)
    return [x, w, b], lambda: (_batch_norm(library.nn.functional, x, w, b) * seed).sum()


_count = 16 * 256 * 56 * 56
step("batch norm 16x256x56x56 both, times", _batch_case, moved=4 * 9 * _count)


def _block(relu: bool, residual: bool, *shape: int) -> Callable[[Any], tuple[list[Any], Call]]:
    """Batch norm in training, with what follows it in a residual block."""

    def build(library: Any) -> tuple[list[Any], Call]:
        x, other, seed = (draw(library, *shape, last=True) for _ in range(3))
        leaves = [x.requires_grad_(), *([other.requires_grad_()] if residual else [])]
        norm, rectify = library.nn.BatchNorm2d(shape[1]), library.nn.ReLU(inplace=True)

        def loss() -> Any:
            if not relu:
                y = norm(x)
            elif library is tensorlib:
                y = norm_relu(norm, rectify, x, other if residual else None)
            else:
                y = norm(x)
                if residual:
                    y += other
                y = rectify(y)
            return Gradient(y, seed)

        return leaves, loss

    return build


class Gradient:
    """Stands for a loss whose gradient is `seed`: its own cost is not that of the layer."""

    def __init__(self, output: Any, seed: Any) -> None:
        self.output, self.seed = output, seed

    def backward(self) -> None:
        self.output.backward(self.seed)


for _shape in ((16, 64, 112, 112), (16, 256, 56, 56)):
    _count, _form = int(np.prod(_shape)), "x".join(map(str, _shape))
    step(f"batch norm {_form} both", _block(False, False, *_shape), moved=32 * _count)
    step(f"batch norm, relu {_form} both", _block(True, False, *_shape), moved=32 * _count)
    step(f"batch norm, add, relu {_form} both", _block(True, True, *_shape), moved=52 * _count)

_planes = (16, 64, 112, 112)
_count = int(np.prod(_planes))
for _last in (True, False):
    _form = "16x64x112x112 3 2 1" + ("" if _last else " nchw")
    forward(f"max pool {_form}", lambda F, x: F.max_pool2d(x, 3, 2, 1), _planes, moved=5 * _count,
            last=_last)  # fmt: skip
    backward(f"max pool {_form} backward", lambda F, x: F.max_pool2d(x, 3, 2, 1), _planes,
             moved=10 * _count, last=_last)  # fmt: skip
forward("avg pool 16x64x112x112 2", lambda F, x: F.avg_pool2d(x, 2), _planes, moved=5 * _count,
        last=True)  # fmt: skip
forward("global average 16x2048x7x7", lambda F, x: F.adaptive_avg_pool2d(x, 1), (16, 2048, 7, 7),
        moved=4 * 16 * 2048 * 49, last=True)  # fmt: skip


@case("bytes 64x224x224x3 normalised", moved=5 * 64 * 224 * 224 * 3)
def _bytes(library: Any) -> Call:
    batch = np.random.default_rng(0).integers(0, 256, (64, 224, 224, 3), np.uint8)
    preset = ImageClassification(224)
    if library is tensorlib:
        return lambda: preset.normalize(batch)
    given = library.from_numpy(batch)
    mean, std = (library.tensor(v) for v in (preset.mean, preset.std))
    return lambda: given.float().div_(255).sub_(mean).div_(std).permute(0, 3, 1, 2)


def _conv(channels: int, size: int, kernel: int, outputs: int, stride: int = 1) -> None:
    name = f"conv {kernel}x{kernel} {channels}->{outputs} {size}x{size} /{stride}, batch 16"
    shapes = ((16, channels, size, size), (outputs, channels, kernel, kernel))
    work = 2.0 * 16 * (size // stride) ** 2 * channels * outputs * kernel**2

    def convolve(F: Any, x: Any, w: Any) -> Any:
        return F.conv2d(x, w, stride=stride, padding=kernel // 2)

    forward(name, convolve, *shapes, computed=work, last=True)
    backward(f"{name} backward", convolve, *shapes, computed=2 * work, last=True)


for _sizes in ((64, 56, 3, 64), (256, 14, 3, 256), (256, 56, 1, 64), (64, 56, 1, 256)):
    _conv(*_sizes)
_conv(128, 56, 3, 128, 2)


def _attention(F: Any, q: Any, k: Any, v: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v)


_heads = ((8, 8, 512, 64),) * 3
forward("attention 8x8x512x64", _attention, *_heads, computed=4.0 * 64 * 512 * 512 * 64)
backward("attention 8x8x512x64 backward", _attention, *_heads, computed=10.0 * 64 * 512 * 512 * 64)


def _lstm(library: Any) -> tuple[list[Any], Call]:
    net = library.nn.LSTM(128, 128, batch_first=True)
    x = draw(library, 64, 64, 128)
    return list(net.parameters()), lambda: net(x)[0].sum()


step("LSTM 128, length 64, batch 64 both", _lstm, computed=3 * 2.0 * 64 * 64 * 4 * 128 * 256)


@case("Adam, 25M parameters (torch fused)", moved=7 * 4 * 25e6)
def _adam(library: Any) -> Call:
    leaves = [draw(library, 500_000, grad=True) for _ in range(50)]
    for leaf in leaves:
        leaf.grad = library.ones_like(leaf) * 1e-3
    options = {"fused": True} if library is torch else {}
    return library.optim.Adam(leaves, lr=1e-3, **options).step


@case("SGD with momentum, 25M parameters (torch fused)", moved=5 * 4 * 25e6)
def _sgd(library: Any) -> Call:
    leaves = [draw(library, 500_000, grad=True) for _ in range(50)]
    for leaf in leaves:
        leaf.grad = library.ones_like(leaf) * 1e-3
    options = {"fused": True} if library is torch else {}
    return library.optim.SGD(leaves, lr=1e-3, momentum=0.9, **options).step


# -- measuring -------------------------------------------------------------------------------------


def once(call: Call) -> float:
    """Milliseconds of a call."""
    time.sleep(PAUSE_S)
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def ceilings(rounds: int) -> tuple[float, float]:
    """GB/s of a large copy and GFLOP/s of a large product, the best of the libraries."""
    copies, products = [], []
    for library in (tensorlib, torch):
        if library is None:
            continue
        x = draw(library, 16 * M)
        a, b = draw(library, 2048, 2048), draw(library, 2048, 2048)
        copy, product = (lambda x=x: x * 1.0), (lambda a=a, b=b: a @ b)
        for call, into, work in ((copy, copies, 8.0 * 16 * M), (product, products, 2.0 * 2048**3)):
            call()
            into.append(work / min(once(call) for _ in range(rounds)) / 1e6)
    return max(copies), max(products)


def measure(one: Case, rounds: int) -> tuple[float, float | None, float | None]:
    """Medians of ours and torch's milliseconds, and of their ratio."""
    calls = [one.build(library) for library in (tensorlib, torch) if library is not None]
    times: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 2):
        for call, into in zip(calls, times, strict=True):
            spent = once(call)
            if number > 1:  # the first rounds compile and fill caches
                into.append(spent)
    gc.collect()
    ours = statistics.median(times[0])
    if len(times) == 1:
        return ours, None, None
    ratios = [other / mine for mine, other in zip(*times, strict=True)]
    return ours, statistics.median(times[1]), statistics.median(ratios)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names")
    options = parser.parse_args()
    tensorlib.set_num_threads(options.threads)
    if torch is not None:
        torch.set_num_threads(options.threads)
    copy, product = ceilings(5)
    print(f"{options.threads} threads; copy {copy:.1f} GB/s, product {product:.0f} GFLOP/s")
    print("| work | ours ms | torch ms | torch / ours | reached | of ceiling |")
    print("|---|---|---|---|---|---|")
    for one in CASES:
        if options.only and not any(part in one.name for part in options.only):
            continue
        try:
            ours, theirs, ratio = measure(one, options.rounds)
        except Exception as problem:  # one case must not cost the table
            print(f"| {one.name} | {type(problem).__name__}: {problem} | | | | |", flush=True)
            continue
        if one.moved:
            reached, unit, top = one.moved / ours / 1e6, "GB/s", copy
        else:
            reached, unit, top = one.computed / ours / 1e6, "GFLOP/s", product
        other = ("", "") if theirs is None or ratio is None else (f"{theirs:.2f}", f"{ratio:.2f}")
        share = f"{reached / top:.0%}"
        row = f"{ours:.2f} | {other[0]} | {other[1]} | {reached:.1f} {unit} | {share}"
        print(f"| {one.name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
