"""Talk and progress go to stderr: lines without a terminal, a bar on one."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

from orchestrator.cli.console import Console


def test_the_first_line_comes_before_anything_else(capsys):
    console = Console(first_line="run-1")
    console.say("hello")
    console.warn("careful")
    console.begin()
    console.close()
    out, err = capsys.readouterr()
    assert out == "run-1\n"
    assert err == "hello\nwarning: careful\n"


def test_quiet_keeps_warnings(capsys):
    console = Console(quiet=True)
    console.say("hello")
    console.progress("train", 1, 1, "steps")
    console.warn("careful")
    assert capsys.readouterr().err == "warning: careful\n"


def test_lines_come_seldom_and_once_at_the_end(capsys):
    console = Console()
    for done in range(101):
        console.progress("train", done, 100, "steps", loss=0.123456)
    console.progress("train", 100, 100, "steps")
    console.progress("classify", 1, 3, "images", info={"bad": 2})
    console.progress("odd", 0, 0, "things")
    assert capsys.readouterr().err.splitlines() == [
        "train: 0 of 100 steps (0 %) loss 0.1235",
        "train: 100 of 100 steps (100 %) loss 0.1235",
        "classify: 1 of 3 images (33 %) bad 2",
        "odd: 0 of 0 things",
    ]


def test_a_terminal_gets_a_bar():
    code = (
        "from orchestrator.cli.console import Console\n"
        "c = Console(first_line='run-1')\n"
        "c.progress('train', 1, 2, 'steps', loss=0.5)\n"
        "c.say('[between]')\n"
        "c.progress('train', 2, 2, 'steps', loss=0.25)\n"
        "c.close()\n"
    )
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    child = subprocess.Popen(
        [sys.executable, "-c", code], stderr=slave, stdout=subprocess.PIPE, env=environment
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not part:
            break
        shown += part
    out, _ = child.communicate(timeout=30)
    os.close(master)
    assert child.returncode == 0
    assert out == b"run-1\n"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "2/2 steps" in text
    assert "loss 0.25" in text
    assert "[between]" in text
