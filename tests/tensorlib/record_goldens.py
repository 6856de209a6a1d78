"""Record what PyTorch gives for every sample, for machines without it.

`python -m tests.tensorlib.record_goldens` writes tests/tensorlib/ops/goldens.json.
"""

import json
import sys
import warnings

from .ops.golden import PATH, digest
from .ops.samples import CASES


def main():
    import torch

    warnings.simplefilter("ignore")  # torch's own
    lines = [f"{json.dumps(f'{n}-{i}')}: {json.dumps(digest(torch, n, i))}" for n, i in CASES]
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    sys.stdout.write(f"{PATH}: {len(lines)} samples, {PATH.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
