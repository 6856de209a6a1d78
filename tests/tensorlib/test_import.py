"""`import tensorlib` is light."""

import os
import subprocess
import sys

HEAVY = ("cupy", "ray", "mlflow", "pandas", "PIL", "torch")


def run(code, **environment):
    env = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=env,
    )
    return done.stdout.strip()


def test_import_pulls_in_nothing_heavy():
    found = run(f"import sys, tensorlib; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert found == "[]"


def test_import_takes_under_300_ms(tmp_path):
    """Of processor time, NumPy's included, once the bytecode is there as an installation has it."""
    code = "import time; import tensorlib; print(time.process_time())"
    cache = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    assert min(float(run(code, **cache)) for _ in range(4)) < 0.3
