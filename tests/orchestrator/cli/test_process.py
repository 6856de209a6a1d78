"""The command in its own process: exit codes, signals, what is imported, how fast it starts."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.store import RunDir

ROOT = Path(__file__).parents[3]


def start(*arguments: str, program: str | None = None, **options) -> subprocess.Popen:
    code = program or "from orchestrator.cli.main import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def run(*arguments: str, **options) -> tuple[int, str, str]:
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["list"], 0, ""),
        (["--help"], 0, ""),
        (["run", "no.yaml"], 2, "no.yaml: there is no such file"),
        (["status", "nope"], 2, "there is no run 'nope'"),
        (["frob"], 2, "No such command"),
        (["plan", "toy.yaml", "--set", "params.epoch=1"], 2, "did you mean 'epochs'?"),
    ],
)
def test_exit_codes(spec_file, arguments, code, said):
    found, _, err = run(*arguments)
    assert found == code
    assert said in err
    assert "Traceback" not in err


def test_resume_finds_the_job_of_the_working_directory(run_dir, toyjobs):
    run_dir.write_status(status="FAILED", reason="JOB_ERROR")
    program = (
        "import sys, orchestrator.submit\n"
        "def resume(home, run_id, *, console):\n"
        "    import toyjobs.toy\n"
        "    raise orchestrator.submit.UsageError('found it')\n"
        "orchestrator.submit.resume = resume\n"
        "sys.path.remove('')\n"  # the console script has no working directory on its path
        "from orchestrator.cli.main import main; main()\n"
    )
    assert run("resume", "toy-1", program=program) == (2, "", "found it\n")
    (toyjobs / "toy.py").unlink()
    code, _, err = run("resume", "toy-1", program=program)
    assert code == 2
    assert err.startswith("job: there is no job 'toyjobs.toy'")


HEAVY = ("ray", "mlflow", "numpy", "pandas", "matplotlib", "pyarrow", "tensorlib")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list"],
        ["status", "toy-1"],
        ["logs", "toy-1"],
        ["stop", "toy-1"],
        ["report", "toy-1"],
        ["plan", "toy.yaml"],
    ],
)
def test_looking_at_runs_needs_no_engine(run_dir, arguments):
    run_dir.write_status(status="SUCCEEDED")
    program = (
        "import sys\n"
        "from orchestrator.cli.main import main\n"
        "try: main()\n"
        "finally: sys.stderr.write('imported: ' + ' '.join("
        f"m for m in {HEAVY!r} if m in sys.modules) + '\\n')\n"
    )
    _, _, err = run(*arguments, program=program)
    assert err.splitlines()[-1].split() == ["imported:"]


def test_it_starts_in_well_under_a_second(run_dir):
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("status", "toy-1")[0] == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 1.0  # seconds of a processor, whatever else runs; measured: 0.2 s


def test_a_reader_that_leaves_is_no_traceback(run_dir):
    run_dir.write_status(status="SUCCEEDED")
    (run_dir.logs_dir / "rank-0.log").write_text("x" * 200 + "\n" + "y\n" * 200_000)
    process = start("logs", "toy-1")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 1
    assert err == ""


def test_ctrl_c_while_following_leaves_the_run_alone(run_dir):
    with run_dir.lock():
        run_dir.write_status(status="RUNNING")
        (run_dir.logs_dir / "rank-0.log").write_text("hello\n")
        process = start("logs", "toy-1", "--follow")
        assert process.stdout is not None
        assert process.stdout.readline() == "[rank 0] hello\n"
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - started < 5
        assert process.returncode == 130
        assert err == "detached; again: orchestrator logs toy-1 --follow\n"
        assert not run_dir.stop_requested()
        assert RunDir(run_dir.path).status().status == "RUNNING"


def test_ui_ends_with_ctrl_c_and_takes_its_server_along(tmp_path):
    server = "import time; print('serving', flush=True); time.sleep(60)"
    program = (
        "import sys, types\n"
        "tracker = types.ModuleType('orchestrator.tracking.mlflow')\n"
        f"tracker.ui_command = lambda home, port: [sys.executable, '-c', {server!r}]\n"
        "sys.modules['orchestrator.tracking.mlflow'] = tracker\n"
        "from orchestrator.cli.main import main; main()\n"
    )
    process = start("ui", "--port", "47113", program=program)
    assert process.stdout is not None
    assert "http://127.0.0.1:47113" in process.stdout.readline()
    assert process.stdout.readline() == "serving\n"
    process.send_signal(signal.SIGINT)  # to the command alone, as `kill -INT` does
    out, err = process.communicate(timeout=30)  # ends only when the server has gone too
    assert process.returncode == 0
    assert "Traceback" not in out + err


def test_json_of_every_looking_verb_is_one_object(run_dir):
    run_dir.write_status(status="SUCCEEDED")
    for arguments in (["list"], ["status", "toy-1"], ["report", "toy-1"], ["logs", "toy-1"]):
        code, out, _ = run(*arguments, "--json")
        assert code == 0
        assert isinstance(json.loads(out.splitlines()[-1]), dict)
