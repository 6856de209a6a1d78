"""The peers of benchmarks/classify.py, without anything of ours: PyTorch with Ray Data, and alone.

    python benchmarks/classify_torch.py ray FOLDER WEIGHTS --workers 2 --threads 1
    python benchmarks/classify_torch.py plain FOLDER WEIGHTS

ResNet-50 in eager mode, channels last, batches of 16; torchvision's preprocessing (resize 256,
centre crop 224) with PIL. Both write a Parquet table of the five best classes. `ray` prints the
images per second once Ray has started.
"""

from __future__ import annotations

import argparse
import io
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 16


def resnet50() -> Any:
    """torchvision's ResNet-50 (v1.5), with its parameter names."""
    from torch import nn

    class Bottleneck(nn.Module):  # type: ignore[misc]
        def __init__(self, inputs: int, planes: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            self.conv3 = nn.Conv2d(planes, planes * 4, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(planes * 4)
            self.relu = nn.ReLU(inplace=True)
            self.downsample = None
            if stride != 1 or inputs != planes * 4:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, planes * 4, 1, stride, bias=False),
                    nn.BatchNorm2d(planes * 4),
                )

        def forward(self, x: Any) -> Any:
            y = self.relu(self.bn1(self.conv1(x)))
            y = self.relu(self.bn2(self.conv2(y)))
            y = self.bn3(self.conv3(y))
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
            for n, (planes, count) in enumerate(
                zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)
            ):
                blocks = []
                for i in range(count):
                    blocks.append(Bottleneck(inputs, planes, 2 if n and not i else 1))
                    inputs = planes * 4
                setattr(self, f"layer{n + 1}", nn.Sequential(*blocks))
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.fc = nn.Linear(inputs, 1000)

        def forward(self, x: Any) -> Any:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            for n in range(1, 5):
                x = getattr(self, f"layer{n}")(x)
            return self.fc(self.avgpool(x).flatten(1))

    return ResNet()


def decode(data: bytes) -> np.ndarray:
    """uint8 [224, 224, 3] as torchvision's preset cuts it."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    short = min(image.size)
    size = tuple(int(256 * side / short) for side in image.size)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


class Classifier:
    """The model in an actor, or here."""

    def __init__(self, weights: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = resnet50()
        self.model.load_state_dict(torch.load(weights, weights_only=True))
        self.model = self.model.eval().to(memory_format=torch.channels_last)
        self.mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        self.std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        with self.torch.inference_mode():
            pixels = self.torch.from_numpy(np.stack(list(rows["image"]))).permute(0, 3, 1, 2)
            logits = self.model((pixels.float() / 255 - self.mean) / self.std)
            probabilities, indices = logits.softmax(1).topk(5)
        return {"path": rows["path"], "index": indices.numpy(), "prob": probabilities.numpy()}


def on_ray(folder: Path, weights: Path, workers: int, threads: int, output: Path) -> float:
    """Images per second from a started Ray to the written table."""
    import ray
    import ray.data

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    started = time.monotonic()

    def read(row: dict[str, Any]) -> dict[str, Any]:
        return {"path": row["path"], "image": decode(row["bytes"])}

    table = (
        ray.data.read_binary_files(
            str(folder),
            include_paths=True,
            override_num_blocks=16,
            ray_remote_args={"num_cpus": 0.1},
        )
        .map(read, num_cpus=0.1)
        .map_batches(
            Classifier,
            fn_constructor_kwargs={"weights": str(weights), "threads": threads},
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1.5 / workers,
        )
    )
    table.write_parquet(str(output), ray_remote_args={"num_cpus": 0.1})
    took_s = time.monotonic() - started
    count = sum(1 for _ in folder.iterdir())
    ray.shutdown()
    return count / took_s


def plain(folder: Path, weights: Path, output: Path) -> None:
    """The script one writes for a few images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = sorted(folder.iterdir())
    model = Classifier(str(weights), 2)
    rows = []
    for start in range(0, len(paths), BATCH):
        chunk = paths[start : start + BATCH]
        images = [decode(path.read_bytes()) for path in chunk]
        found = model({"path": [str(path) for path in chunk], "image": images})
        for path, index, prob in zip(
            *(found[name] for name in ("path", "index", "prob")), strict=True
        ):
            rows.append({"path": path, "index": index.tolist(), "prob": prob.tolist()})
            print(path, *(f"{i} {p:.4f}" for i, p in zip(index, prob, strict=True)))
    output.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), output / "table.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("ray", "plain"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.kind == "plain":
        plain(args.folder, args.weights, args.output)
        return
    speed = on_ray(args.folder, args.weights, args.workers, args.threads, args.output)
    print(f"images_per_s {speed:.3f}")


if __name__ == "__main__":
    main()
