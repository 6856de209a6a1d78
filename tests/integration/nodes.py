"""A Ray cluster of several nodes on one machine: a network namespace each, joined by a bridge.

Links can be cut, healed and slowed, nodes killed and started again. Needs root on Linux, with `ip`
and `tc`; `unavailable()` says what is missing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from .conftest import environment

PORT = 6379


def unavailable() -> str | None:
    """Why there can be no such cluster here; None where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if not (shutil.which("ip") and shutil.which("tc")):
        return "`ip` and `tc` (iproute2) are not installed"
    name = f"probe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "network namespaces are not permitted here"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


class Nodes:
    """Nodes 1 (the head) to `count`, none of which runs Ray before `start`."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._prefix = folder, f"ray{os.getpid()}n"
        self._hub = f"ray{os.getpid()}hub"
        self._count = count
        self._ip(f"netns add {self._hub}")
        self._ip("link add br0 type bridge", self._hub)
        self._ip("link set br0 up", self._hub)
        for node in range(1, count + 1):
            name = self.name(node)
            self._ip(f"netns add {name}")
            self._ip(f"link add h{node} type veth peer name eth0 netns {name}", self._hub)
            self._ip(f"link set h{node} master br0 up", self._hub)
            self._ip(f"addr add {self.address(node)}/24 dev eth0", name)
            for device in ("eth0", "lo"):
                self._ip(f"link set {device} up", name)

    @staticmethod
    def _ip(arguments: str, namespace: str | None = None) -> None:
        where = ["-n", namespace] if namespace else []
        subprocess.run(["ip", *where, *arguments.split()], check=True, timeout=20)

    def name(self, node: int) -> str:
        return f"{self._prefix}{node}"

    def address(self, node: int) -> str:
        return f"10.78.0.{node}"

    @property
    def cluster(self) -> str:
        """What `--address` takes."""
        return f"{self.address(1)}:{PORT}"

    def inside(self, node: int) -> list[str]:
        """What a command starts with that is to run on a node."""
        return ["ip", "netns", "exec", self.name(node)]

    def variables(self) -> dict[str, str]:
        """Of Ray's processes and of the driver. A lost node is noticed in seconds."""
        return {
            "RAY_AUTH_MODE": "disabled",  # nothing from outside reaches these namespaces
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "3000",
            "RAY_health_check_failure_threshold": "8",
        }

    def start(self, node: int, cpus: int = 1) -> None:
        """Let a node join (or, the first, begin) the cluster with so many CPUs."""
        ray = str(Path(sys.executable).parent / "ray")
        command = [*self.inside(node), ray, "start", f"--num-cpus={cpus}", "--disable-usage-stats"]
        command += [f"--node-ip-address={self.address(node)}", "--object-store-memory=100000000"]
        if node == 1:
            command += ["--head", f"--port={PORT}", "--include-dashboard=false"]
            command += [f"--temp-dir={self._folder}"]
        else:
            command += [f"--address={self.cluster}"]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
            check=False,
            env=environment(self._folder, **self.variables()),
            cwd=self._folder,
        )
        assert done.returncode == 0, done.stdout

    def of(self, pid: int) -> int:
        """The node on which a process runs."""
        found = subprocess.run(
            ["ip", "netns", "identify", str(pid)], capture_output=True, text=True, check=True
        )
        return int(found.stdout.strip().removeprefix(self._prefix))

    def kill(self, node: int) -> None:
        """The node is lost: all its processes end at once."""
        found = subprocess.run(
            ["ip", "netns", "pids", self.name(node)], capture_output=True, text=True, check=True
        )
        for pid in found.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue

    def cut(self, node: int) -> None:
        """Nothing reaches the node any more and nothing comes from it."""
        self._ip(f"link set h{node} down", self._hub)

    def heal(self, node: int) -> None:
        self._ip(f"link set h{node} up", self._hub)

    def slow(self, node: int, rate: str | None) -> None:
        """What the node receives comes at `rate` ("2mbit"); None: as fast as it can."""
        change = "del" if rate is None else "replace"
        limit = f"tbf rate {rate} burst 32kbit latency 400ms" if rate else ""
        command = f"ip netns exec {self._hub} tc qdisc {change} dev h{node} root {limit}"
        subprocess.run(command.split(), check=True, timeout=20)

    def down(self) -> None:
        """End everything."""
        for node in range(1, self._count + 1):
            self.kill(node)
            subprocess.run(["ip", "netns", "del", self.name(node)], check=False)
        subprocess.run(["ip", "netns", "del", self._hub], check=False)
