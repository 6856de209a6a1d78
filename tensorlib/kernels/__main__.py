"""`python -m tensorlib.kernels`: which body answers for which kernel."""

from __future__ import annotations

import sys

import tensorlib
from tensorlib.kernels import REGISTRY, choice


def main() -> None:
    """Print one line per kernel and override."""
    out = sys.stdout
    out.write(f"tensorlib {tensorlib.__version__}, TENSORLIB_KERNELS={choice()}\n")
    for name, made in sorted(REGISTRY.items()):
        for override in made.overrides:
            state = "" if override in made._active else " (off)"
            out.write(f"{name:24} {override.name}{state}: {override.when}\n")
        out.write(f"{name:24} {made.reference.__module__}.{name}: otherwise (reference)\n")


main()
