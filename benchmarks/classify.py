"""Batch classification beside Ray Data with PyTorch, in one run, by turns.

    python -m benchmarks.classify [--images 512] [--rounds 3] [--ours 1x2 2x1] [--only ROW ...]

Rows: `ray` (ResNet-50 over JPEGs of 500x375, from a started Ray to the written table, against the
better of PyTorch's 1x2 and 2x1 workers x threads), `steady` (that pipeline once it runs, against
our own model alone on the same cores), `ten` (the command for ten images with --local against a
plain PyTorch script, both with warm caches), `memory` (of the process that classifies --many small
images). Weights are random; the peers are benchmarks/classify_torch.py.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PEER = Path(__file__).with_name("classify_torch.py")
BATCH = 16


class Bench:
    """A folder with weights and images, and commands that run in it."""

    def __init__(self, folder: Path) -> None:
        import tensorlib
        from tensorlib.vision.models import resnet50

        self.folder = folder
        self.weights = folder / "resnet50.pth"
        tensorlib.manual_seed(0)
        tensorlib.save(resnet50().state_dict(), self.weights)
        self.made = 0

    def jpegs(self, count: int) -> Path:
        """Distinct JPEGs of 500x375 with the spectrum of photographs."""
        from PIL import Image

        folder = self.folder / f"jpegs-{count}"
        folder.mkdir(exist_ok=True)
        random = np.random.default_rng(0)
        for i in range(count):
            coarse = random.integers(0, 256, (8, 10, 3), np.uint8)
            smooth = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
            noise = random.normal(0, 12, (375, 500, 3))
            pixels = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:05d}.jpg", quality=85)
        return folder

    def out(self) -> Path:
        """A new path for a table."""
        self.made += 1
        return self.folder / f"out-{self.made}"

    def run(self, *command: str | Path) -> str:
        """The output of a command, which must succeed."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "ORCHESTRATOR_HOME": str(self.folder / "home"),
        }
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
        return done.stdout

    def ours(self, images: Path, shape: str) -> dict[str, Any]:
        """What a classification on Ray noted of its speed; `shape` is workers x threads."""
        workers, threads = shape.split("x")
        words = self.run(
            *("-m", "orchestrator", "classify", images, "--model", "resnet50", "--weights"),
            *(self.weights, "--workers", workers, "--cpus", threads, "--output", self.out()),
            *("--batch-size", str(BATCH), "--json"),
        )
        run_dir = Path(json.loads(words.strip().splitlines()[-1])["run_dir"])
        found: dict[str, Any] = json.loads((run_dir / "status.json").read_text())["batch"]
        return found

    def peer(self, images: Path, shape: str) -> float:
        """Images per second of PyTorch on Ray Data."""
        workers, threads = shape.split("x")
        words = self.run(
            *(PEER, "ray", images, self.weights, "--output", self.out()),
            *("--workers", workers, "--threads", threads),
        )
        return float(words.strip().split()[-1])

    def bare(self, shape: str, seconds: float) -> float:
        """Images per second of the model alone, in as many processes as workers."""
        workers, threads = map(int, shape.split("x"))
        command = [sys.executable, "-m", "benchmarks.classify", "--bare", str(threads)]
        processes = [
            subprocess.Popen(
                [*command, "--seconds", str(seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            for _ in range(workers)
        ]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # ready
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return sum(float(process.communicate()[0]) for process in processes)


def bare(threads: int, seconds: float) -> None:
    """One process of the model alone: the same batches again and again, as fast as it can."""
    import tensorlib
    from tensorlib import inference
    from tensorlib.vision.models import resnet50

    tensorlib.set_num_threads(threads)
    images = tensorlib.randn(BATCH, 3, 224, 224)
    model = inference.compile(resnet50().eval(), images)
    model(images)
    print("ready", flush=True)
    sys.stdin.readline()
    started, count = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        model(images)
        count += BATCH
    print(count / (time.monotonic() - started))


def speeds(bench: Bench, images: Path, args: argparse.Namespace) -> None:
    """The rows `ray` and `steady`."""
    ours: dict[str, list[float]] = {shape: [] for shape in args.ours}
    shares: dict[str, list[float]] = {shape: [] for shape in args.ours}
    peers: dict[str, list[float]] = {"1x2": [], "2x1": []}
    for _ in range(args.rounds):
        for shape in args.ours:
            found = bench.ours(images, shape)
            ours[shape].append(found["images_per_s"])
            if "steady" in args.only:
                alone = bench.bare(shape, 15.0)
                shares[shape].append(found["steady_images_per_s"] / alone)
                print(f"ours {shape}: {found}, the model alone {alone:.2f} images/s", flush=True)
        if "ray" in args.only:
            for shape, values in peers.items():
                values.append(bench.peer(images, shape))
                print(f"PyTorch {shape}: {values[-1]:.2f} images/s", flush=True)
    best = max(ours, key=lambda shape: statistics.median(ours[shape]))
    if "ray" in args.only:
        other = max(peers, key=lambda shape: statistics.median(peers[shape]))
        pairs = [a / b for a, b in zip(ours[best], peers[other], strict=True)]
        row(
            f"Ray Data, images/s, ours {best}, PyTorch {other}",
            ours[best],
            peers[other],
            pairs,
            2.0,
        )
    if "steady" in args.only:
        row(f"steady state / model alone, {best}", ours[best], [], shares[best], 0.9)


def ten(bench: Bench, args: argparse.Namespace) -> None:
    """The row `ten`."""
    images = bench.jpegs(10)
    ours, peers = [], []
    for number in range(args.rounds + 1):
        started = time.monotonic()
        bench.run(
            *("-m", "orchestrator", "classify", images, "--local", "--model", "resnet50"),
            *("--weights", bench.weights, "--output", bench.out()),
        )
        middle = time.monotonic()
        bench.run(PEER, "plain", images, bench.weights, "--output", bench.out())
        if number:  # the first one warms the caches
            ours.append(middle - started)
            peers.append(time.monotonic() - middle)
    pairs = [b / a for a, b in zip(ours, peers, strict=True)]
    row("ten images, seconds of the command", ours, peers, pairs, 1.0)


def memory(bench: Bench, args: argparse.Namespace) -> None:
    """The row `memory`: resident memory of the classifying process and its children."""
    from PIL import Image

    bench.run(
        *("-m", "jobs.train_classifier", "configs/train/digits.yaml", "params.epochs=1"),
        "name=memory",
    )
    folder = bench.folder / "small"
    random = np.random.default_rng(0)
    for i in range(args.many):
        path = folder / f"{i // 1000:03d}" / f"{i:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())
    out = bench.out()
    command = [sys.executable, "-m", "orchestrator", "classify", str(folder), "--local"]
    process = subprocess.Popen(
        [*command, "--weights", "run:/latest", "--output", str(out)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "ORCHESTRATOR_HOME": str(bench.folder / "home")},
    )
    seen: list[tuple[int, float]] = []

    def watch() -> None:
        while process.poll() is None:
            done = len(list(out.glob("part-*"))) if out.exists() else 0
            seen.append((done, max(map(_resident_mb, _family(process.pid)), default=0.0)))
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if process.wait():
        sys.exit(f"classify: exit code {process.returncode}")
    watcher.join()
    running = [(done, mb) for done, mb in seen if done]
    start = max(mb for done, mb in running if done <= 5)
    most = max(mb for _, mb in running)
    print(
        f"memory over {args.many} small images: {start:.0f} MB after the first parts, at most "
        f"{most:.0f} MB, {most - start:+.0f} MB (at most +200)"
    )


def _family(pid: int) -> list[int]:
    """A process and those below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def _resident_mb(pid: int) -> float:
    try:
        words = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0.0
    return int(words[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def row(
    what: str, ours: list[float], peers: list[float], ratios: list[float], wanted: float
) -> None:
    """A line of the table: medians, and the median ratio with its range."""
    numbers = " / ".join(f"{statistics.median(values):.2f}" for values in (ours, peers) if values)
    print(
        f"{what}: {numbers}; ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}), wanted {wanted:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    rows = ("ray", "steady", "ten", "memory")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--ours", nargs="+", default=["2x1", "1x2"], metavar="WORKERSxTHREADS")
    parser.add_argument("--only", nargs="+", choices=rows, default=rows)
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        bare(args.bare, args.seconds)
        return
    folder = Path(tempfile.mkdtemp(prefix="classify-"))
    try:
        bench = Bench(folder)
        if {"ray", "steady"} & {*args.only}:
            speeds(bench, bench.jpegs(args.images), args)
        if "ten" in args.only:
            ten(bench, args)
        if "memory" in args.only:
            memory(bench, args)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
