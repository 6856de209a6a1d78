"""`import tensorlib` is light."""

import os
import subprocess
import sys

HEAVY = ("cupy", "ray", "mlflow", "pandas", "PIL", "torch", "numba", "llvmlite", "scipy")


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


def test_import_takes_less_than_three_times_numpys(tmp_path):
    """Processor time, once the bytecode is there as an installation has it: 0.3 s on a machine
    where NumPy, which is most of it, takes 0.1 s.
    """
    cache = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}

    def seconds(module):
        code = f"import time; import {module}; print(time.process_time())"
        return min(float(run(code, **cache)) for _ in range(4))

    assert seconds("tensorlib") < 3 * seconds("numpy")
