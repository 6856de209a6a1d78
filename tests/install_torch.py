"""Add PyTorch to the test environment, but only a CPU build: `python -m tests.install_torch`.

Asks the index first what would be installed; a build that brings CUDA packages is refused, and the
oracle tests then skip and say so.
"""

from __future__ import annotations

import json
import subprocess
import sys

WANTED = "torch==2.13.0"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
LIMIT_S = 900


def main() -> int:
    asked = subprocess.run(
        [*PIP, "install", "--dry-run", "--quiet", "--report", "-", WANTED],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if asked.returncode:
        print(f"{WANTED} cannot be had here; oracle tests will skip. pip: {asked.stderr.strip()}")
        return 0
    names = [item["metadata"]["name"].lower() for item in json.loads(asked.stdout)["install"]]
    cuda = [name for name in names if name.startswith(("nvidia", "cuda", "triton"))]
    if cuda:
        print(f"{WANTED} would bring {len(cuda)} CUDA packages; not installed, oracle tests skip")
        return 0
    if names:
        subprocess.run([*PIP, "install", "--quiet", WANTED], timeout=LIMIT_S, check=True)
    print(f"{WANTED} is installed: {', '.join(names) or 'it was already'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
