"""`python -m tensorlib.kernels`: which body answers for which kernel, and what for; `python -m
tensorlib.kernels warm`: compile all of them now.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import tensorlib
from tensorlib.kernels import REGISTRY, Unsupported, choice


def _host() -> list[str]:
    """Lines about the CPU, the threads and the cache of compiled code."""
    lines = [f"tensorlib {tensorlib.__version__}, TENSORLIB_KERNELS={choice()}"]
    lines.append(f"threads      {tensorlib.get_num_threads()}")
    try:
        from tensorlib.kernels.cpu import host, loader

        block = host.blocking()
        lines.append(f"CPU          {host.name()}")
        lines.append(
            f"vectors      {block.lanes} float32 numbers; products keep "
            f"{block.rows} x {block.panel} sums in registers"
        )
        size = loader.size_on_disk() / 1024
        lines.append(f"cache        {loader.cache_directory()} ({size:.0f} KiB)")
    except (ImportError, Unsupported) as problem:
        lines.append(f"compiled     none: {problem}")
    return lines


def show() -> int:
    """Print what this host is to the kernels, then a line per kernel and override."""
    out = sys.stdout
    out.write("\n".join(_host()) + "\n")
    for name, made in sorted(REGISTRY.items()):
        for override in made.overrides:
            state = "" if override in made._active else " (off)"
            out.write(f"{name:24} {override.name}{state}: {override.when}\n")
        out.write(f"{name:24} {made.reference.__module__}.{name}: otherwise (reference)\n")
    return 0


def warm(wanted: list[str]) -> int:
    """Compile all tasks that the cache lacks, with a line per family."""
    try:
        from tensorlib.kernels.cpu import host, loader
        from tensorlib.kernels.cpu.warm import families
        from tensorlib.kernels.cpu.warm import warm as warmed

        unknown = sorted(set(wanted) - set(families()))
        if unknown:
            sys.stderr.write(
                f"tensorlib: no family {', '.join(unknown)}; there are "
                f"{', '.join(sorted(families()))}\n"
            )
            return 2
        host.blocking()
        loader.versions()
    except (ImportError, Unsupported) as problem:
        sys.stderr.write(f"tensorlib: nothing to compile: {problem}\n")
        return 1
    began = time.perf_counter()
    failed = 0
    for one in warmed(wanted or families()):
        made = f"{one.compiled} compiled" if one.compiled else "all there"
        sys.stdout.write(f"{one.family:16} {one.tasks:3} tasks, {made:12} {one.seconds:6.1f} s")
        sys.stdout.write(f"  failed: {one.problem}\n" if one.problem else "\n")
        sys.stdout.flush()
        failed += bool(one.problem)
    spent = time.perf_counter() - began
    sys.stdout.write(f"{loader.writable_directory()}: {spent:.1f} s\n")
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tensorlib.kernels",
        description="List which body answers for which kernel, or compile all of them now.",
    )
    parser.add_argument("action", nargs="?", choices=["list", "warm"], default="list")
    parser.add_argument("family", nargs="*", help="what to compile, all by default")
    parsed = parser.parse_args(arguments)
    if parsed.action == "warm":
        return warm(parsed.family)
    if parsed.family:
        parser.error("a family is for 'warm'")
    return show()


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
