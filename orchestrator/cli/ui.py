"""`orchestrator ui`: MLflow's pages over the runs of the home directory."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Annotated

import typer

_STOP_S = 10.0


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000,
) -> None:
    """Show experiments in a browser (MLflow on loopback) until Ctrl-C."""
    from orchestrator.errors import BackendUnavailable
    from orchestrator.plan import default_home

    home = default_home()
    _check_port(port)
    from orchestrator.tracking.mlflow import ui_command

    print(f"http://127.0.0.1:{port}   (runs of {home}; Ctrl-C ends it)", flush=True)
    process = subprocess.Popen(ui_command(home, port))
    try:
        code = process.wait()
    except KeyboardInterrupt:
        _end(process)
        print("stopped", file=sys.stderr)
        return
    except BaseException:
        _end(process)
        raise
    if code:
        raise BackendUnavailable(
            f"ui: the MLflow server ended with exit code {code}; its lines above say why."
        )


def _check_port(port: int) -> None:
    from orchestrator.errors import UsageError

    with socket.socket() as probe:
        # As servers do: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(
                f"--port {port}: 127.0.0.1:{port} cannot be used: {error.strerror}; expected a "
                f"free port. Hint: orchestrator ui --port {port + 1 if port < 65535 else 5000}"
            ) from None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
