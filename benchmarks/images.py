"""Networks for images next to PyTorch, ONNX Runtime and OpenVINO, in one run, by turns.

    python -m benchmarks.images [--only TEXT ...] [--rounds 7] [--threads 2] [--memory]

The peers come with `pip install -e .[bench]`; one that is not installed has no column. float32,
synthetic images of 224x224 (ResNet-18 in training: 64x64; small CNN: 28x28). PyTorch runs channels
last and, in training, in its better layout of two; ONNX Runtime with its defaults, OpenVINO with
the latency hint. Printed: median milliseconds, and the median over rounds of peer / ours.

`--memory` prints the peak memory of a training step of ResNet-50, batch 16, in processes of their
own.

The promise: compiled ResNet-50, batch 16, at least 1.8 times PyTorch's speed, 1.1 times ONNX
Runtime's, 1.15 times OpenVINO's; training steps at least 1.3 times PyTorch's.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import tensorlib
from tensorlib import inference
from tensorlib.vision import models

PAUSE_S = 0.05
Step = Callable[[], Any]


# -- the networks in PyTorch -----------------------------------------------------------------------


def torch_resnet(depths: tuple[int, ...], bottleneck: bool) -> Any:
    """torchvision's ResNet v1.5, with its parameter names."""
    import torch
    from torch import nn

    grown = 4 if bottleneck else 1

    def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> Any:
        return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self, inputs: int, planes: int, stride: int) -> None:
            super().__init__()
            sizes = [(inputs, planes, 1), (planes, planes, 3), (planes, planes * 4, 1)]
            if not bottleneck:
                sizes = [(inputs, planes, 3), (planes, planes, 3)]
            place = 1 if bottleneck else 0
            self.count = len(sizes)
            for i, (a, b, k) in enumerate(sizes):
                setattr(self, f"conv{i + 1}", conv(a, b, k, stride if i == place else 1))
                setattr(self, f"bn{i + 1}", nn.BatchNorm2d(b))
            self.relu = nn.ReLU(inplace=True)
            self.downsample = None
            if stride != 1 or inputs != planes * grown:
                self.downsample = nn.Sequential(
                    conv(inputs, planes * grown, 1, stride), nn.BatchNorm2d(planes * grown)
                )

        def forward(self, x: Any) -> Any:
            y = x
            for i in range(1, self.count + 1):
                y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
                if i < self.count:
                    y = self.relu(y)
            y += x if self.downsample is None else self.downsample(x)
            return self.relu(y)

    class ResNet(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            self.relu = nn.ReLU(inplace=True)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
            inputs = 64
            for n, (planes, count) in enumerate(zip((64, 128, 256, 512), depths, strict=True)):
                blocks = []
                for i in range(count):
                    blocks.append(Block(inputs, planes, 2 if n and not i else 1))
                    inputs = planes * grown
                setattr(self, f"layer{n + 1}", nn.Sequential(*blocks))
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.fc = nn.Linear(inputs, 1000)

        def forward(self, x: Any) -> Any:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            for n in range(1, 5):
                x = getattr(self, f"layer{n}")(x)
            return self.fc(torch.flatten(self.avgpool(x), 1))

    return ResNet()


def torch_small_cnn() -> Any:
    """`tensorlib.vision.models.small_cnn` in PyTorch."""
    from torch import nn

    layers: list[Any] = []
    for a, b in ((1, 16), (16, 32)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(32 * 49, 128), nn.ReLU(), nn.Linear(128, 10)
    )


NETWORKS: dict[str, tuple[Any, Any]] = {
    "ResNet-50": (models.resnet50, lambda: torch_resnet((3, 4, 6, 3), True)),
    "ResNet-18": (models.resnet18, lambda: torch_resnet((2, 2, 2, 2), False)),
    "small CNN": (models.small_cnn, torch_small_cnn),
}


def installed(name: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(name) is not None


def both(name: str) -> tuple[Any, Any]:
    """The network in both libraries with the same weights and plausible running statistics."""
    import torch

    ours, theirs = (make() for make in NETWORKS[name])
    torch.manual_seed(0)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, 0, 0.1)
            module.running_var.uniform_(0.5, 1.0)
    ours.load_state_dict({k: tensorlib.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    return ours, theirs


# -- cases -----------------------------------------------------------------------------------------


def compiled(batch: int, threads: int) -> dict[str, Step]:
    """ResNet-50 as `inference.compile` makes it, and the peers' inference."""
    import torch

    ours, theirs = both("ResNet-50")
    ours.eval()
    theirs.eval()
    x = torch.randn(batch, 3, 224, 224)
    given = tensorlib.tensor(x.numpy())
    made = inference.compile(ours, given)
    found: dict[str, Step] = {"ours": lambda: made(given).numpy()}
    if installed("onnx"):
        found |= _runtimes(theirs, x, threads)
    last = theirs.to(memory_format=torch.channels_last)
    wide = x.to(memory_format=torch.channels_last)

    def call() -> Any:
        with torch.inference_mode():
            return last(wide).numpy()

    return {**found, "torch": call}


def _runtimes(model: Any, x: Any, threads: int) -> dict[str, Step]:
    """The peers that read ONNX."""
    import torch

    file, found = io.BytesIO(), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), file, dynamo=False, input_names=["x"], output_names=["y"])
    images = x.numpy()
    if installed("onnxruntime"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            file.getvalue(), options, providers=["CPUExecutionProvider"]
        )
        found["onnxruntime"] = lambda: session.run(None, {"x": images})[0]
    if installed("openvino"):
        import openvino

        core = openvino.Core()
        hints = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
        }
        program = core.compile_model(core.read_model(file.getvalue(), b""), "CPU", hints)
        request = program.create_infer_request()
        found["openvino"] = lambda: request.infer({0: images})[0].copy()
    return found


def eager(batch: int) -> dict[str, Step]:
    """ResNet-50 run by its modules, channels last, in both libraries."""
    import torch

    ours, theirs = both("ResNet-50")
    x = torch.randn(batch, 3, 224, 224)
    given = tensorlib.tensor(x.numpy())
    steps: dict[str, Step] = {}
    for label, library, model, images in (
        ("ours", tensorlib, ours, given),
        ("torch", torch, theirs, x),
    ):
        model.eval().to(memory_format=library.channels_last)
        laid = images.to(memory_format=library.channels_last)

        def call(library: Any = library, model: Any = model, laid: Any = laid) -> Any:
            with library.inference_mode():
                return model(laid).numpy()

        steps[label] = call
    return steps


def training(name: str, batch: int, size: int) -> dict[str, Step]:
    """A training step with SGD; PyTorch in both layouts."""
    import torch

    ours, theirs = both(name)
    _, planes = both(name)
    channels = 1 if name == "small CNN" else 3
    x = torch.randn(batch, channels, size, size)
    y = torch.randint(0, 10, (batch,))
    given = tensorlib.tensor(x.numpy()), tensorlib.tensor(y.numpy())
    return {
        "ours": step(tensorlib, ours, *given, last=True),
        "torch": step(torch, theirs, x, y, last=True),
        "torch, planes": step(torch, planes, x, y, last=False),
    }


def step(library: Any, model: Any, x: Any, y: Any, last: bool) -> Step:
    """Gradients to zero, forward, loss, backward, update."""
    model.train()
    if last:
        model.to(memory_format=library.channels_last)
        x = x.to(memory_format=library.channels_last)
    optimizer = library.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def call() -> Any:
        optimizer.zero_grad()
        loss = library.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return call


CASES: dict[str, Callable[[int], dict[str, Step]]] = {
    "compiled ResNet-50, batch 16": lambda threads: compiled(16, threads),
    "compiled ResNet-50, batch 1": lambda threads: compiled(1, threads),
    "eager ResNet-50, batch 16": lambda threads: eager(16),
    "training ResNet-50, batch 16": lambda threads: training("ResNet-50", 16, 224),
    "training ResNet-18 (64x64), batch 16": lambda threads: training("ResNet-18", 16, 64),
    "training small CNN, batch 64": lambda threads: training("small CNN", 64, 28),
}


def measure(steps: dict[str, Step], rounds: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds and ratio to ours of each; PyTorch trains in its better layout."""
    times: dict[str, list[float]] = {label: [] for label in steps}
    for call in steps.values():
        call()
    began = time.perf_counter()
    steps["ours"]()
    calls = max(1, min(20, int(0.1 / (time.perf_counter() - began))))
    for number in range(rounds):
        for label in sorted(steps, reverse=bool(number % 2)):
            time.sleep(PAUSE_S)
            found = []
            for _ in range(calls):
                began = time.perf_counter()
                steps[label]()
                found.append(time.perf_counter() - began)
            times[label].append(statistics.median(found))
    planes = times.pop("torch, planes", None)
    if planes and statistics.median(planes) < statistics.median(times["torch"]):
        times["torch"] = planes
    return {
        label: (
            1e3 * statistics.median(found),
            statistics.median(b / a for a, b in zip(times["ours"], found, strict=True)),
        )
        for label, found in times.items()
    }


def memory() -> None:
    """Peak resident memory of two training steps, each library in a process of its own."""
    for label in ("tensorlib", "torch"):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.images", "--peak-of", label],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        print(f"peak memory, training ResNet-50, batch 16, {label}: {done.stdout.strip()} MiB")


def peak_of(label: str) -> None:
    """Print this process's peak after two steps."""
    if label == "torch":
        import torch as library
    else:
        library = tensorlib
    model = NETWORKS["ResNet-50"][label == "torch"]()
    x, y = library.randn(16, 3, 224, 224), library.randint(0, 1000, (16,))
    call = step(library, model, x, y, last=True)
    for _ in range(2):
        call()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="cases whose name has one of these")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak-of", choices=["tensorlib", "torch"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    tensorlib.set_num_threads(options.threads)
    if options.peak_of:
        return peak_of(options.peak_of)
    if options.memory:
        return memory()
    import torch

    torch.set_num_threads(options.threads)
    print(f"float32, {options.threads} threads; milliseconds, and how many times ours is faster")
    for name, build in CASES.items():
        if options.only and not any(text.lower() in name.lower() for text in options.only):
            continue
        found = measure(build(options.threads), options.rounds)
        ours = found.pop("ours")[0]
        others = "   ".join(f"{k} {ms:.1f} ({ratio:.2f}x)" for k, (ms, ratio) in found.items())
        print(f"{name:38s} ours {ours:.1f}   {others}", flush=True)
    return None


if __name__ == "__main__":
    main()
