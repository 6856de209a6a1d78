"""`import tensorlib` is light."""

import subprocess
import sys

HEAVY = ("cupy", "ray", "mlflow", "pandas", "PIL", "torch")


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_import_pulls_in_nothing_heavy():
    found = run(f"import sys, tensorlib; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert found == "[]"


def test_import_takes_under_300_ms_beyond_numpy():
    code = (
        "import time, numpy; start = time.perf_counter(); import tensorlib; "
        "print(time.perf_counter() - start)"
    )
    assert min(float(run(code)) for _ in range(5)) < 0.3
