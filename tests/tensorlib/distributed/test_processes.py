"""Ranks as real processes: started, killed, stopped, refused."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("worker.py")
ROOT = Path(__file__).parents[3]
LIMIT_S = 30


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Ranks:
    """The processes of one group; whatever is left of them is killed at the end."""

    def __init__(self):
        self.processes = []

    def start(self, case, rank, world_size, port, **env):
        settings = {
            "RANK": rank,
            "WORLD_SIZE": world_size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "PYTHONPATH": ROOT,
            "OPENBLAS_NUM_THREADS": 1,
            **env,
        }
        process = subprocess.Popen(
            [sys.executable, WORKER, case],
            env={**os.environ, **{k: str(v) for k, v in settings.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, case, world_size, **env):
        port = free_port()
        for rank in range(world_size):
            self.start(case, rank, world_size, port, **env)
        return self.outputs()

    def outputs(self):
        return [process.communicate(timeout=LIMIT_S)[0].strip() for process in self.processes]


@pytest.fixture
def ranks():
    group = Ranks()
    yield group
    for process in group.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("world_size", "env"), [(1, {}), (2, {"BACKEND": "shm"}), (3, {"NODES": "aba"})]
)
def test_collectives(ranks, world_size, env):
    mean = sum(range(1, world_size + 1)) / world_size
    objects = [{"rank": rank, "shape": (1, 2)} for rank in range(world_size)]
    outputs = ranks.run("collectives", world_size, **env)
    assert outputs == [f"{mean} {mean} {objects}"] * world_size


@pytest.mark.parametrize(
    "env",
    [{"BACKEND": "tcp"}, {"BACKEND": "shm"}, {"NODES": "aab"}],
    ids=["tcp", "shm", "combined"],
)
def test_a_killed_rank_is_named_on_all_others_within_5_s(ranks, env):
    """In the combined group rank 1 talks to rank 0 only, which hears of the death of rank 2."""
    world_size = 3
    outputs = ranks.run("killed", world_size, **env)
    assert ranks.processes[-1].returncode == -signal.SIGKILL
    for process, output in zip(ranks.processes[:-1], outputs, strict=False):
        assert process.returncode == 0, output
        seconds, _, message = output.partition("|")
        assert float(seconds) < 5
        assert "all_reduce" in message
        assert f"rank {world_size - 1}" in message


def test_a_stopped_rank_times_out_and_is_named(ranks):
    port = free_port()
    for rank in range(3):
        ranks.start("stopped", rank, 3, port, LIMIT_S=2, BACKEND="shm")
    outputs = [process.communicate(timeout=LIMIT_S)[0] for process in ranks.processes[:2]]
    for output in outputs:
        seconds, _, message = output.partition("|")
        assert 1 < float(seconds) < 5
        assert "all_reduce" in message
        assert "rank 2" in message


def test_mismatch_between_processes(ranks):
    for output in ranks.run("mismatch", 2):
        assert "all_reduce(float32[10], SUM)" in output or "all_reduce(float32[11], SUM)" in output


def test_port_in_use(ranks):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        ranks.start("collectives", 0, 2, busy.getsockname()[1])
        (output,) = ranks.outputs()
    assert ranks.processes[0].returncode == 3
    assert "Address already in use" in output
    assert "MASTER_PORT" in output


def test_other_tokens_are_refused(ranks):
    port = free_port()
    ranks.start("collectives", 0, 2, port, TENSORLIB_DIST_TOKEN="right", LIMIT_S=2)
    ranks.start("collectives", 1, 2, port, TENSORLIB_DIST_TOKEN="wrong", LIMIT_S=2)
    first, second = ranks.outputs()
    assert "waited 2 s" in first
    assert "rank 1 with another token" in first
    assert "tokens differ" in second


def test_strangers_are_turned_away_and_the_group_still_comes_together(ranks):
    port = free_port()
    ranks.start("collectives", 0, 2, port)
    end = time.monotonic() + LIMIT_S
    while True:
        try:
            stranger = socket.create_connection(("127.0.0.1", port), timeout=5)
            break
        except OSError:
            assert time.monotonic() < end
    with stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
        ranks.start("collectives", 1, 2, port)
        assert all("1.5 1.5" in output for output in ranks.outputs())


def test_a_wrong_world_size_is_explained(ranks):
    port = free_port()
    ranks.start("collectives", 0, 2, port, LIMIT_S=2)
    ranks.start("collectives", 1, 3, port, LIMIT_S=2)
    first, second = ranks.outputs()
    assert "world_size is 2 here, 3 there" in second
    assert "world_size is 2 here, 3 there" in first


def test_a_rank_that_never_comes(ranks):
    ranks.start("collectives", 0, 2, free_port(), LIMIT_S=0.5)
    ranks.start("collectives", 1, 2, free_port(), LIMIT_S=0.5)
    first, second = ranks.outputs()
    assert "rank 0 waited 0.5 s" in first
    assert "for rank 1 of 2" in first
    assert "rank 1 could not reach rank 0" in second
    assert "Connection refused" in second


def test_listens_on_the_interface_of_master_addr_only(ranks):
    port = free_port()
    ranks.start("collectives", 0, 2, port)
    end = time.monotonic() + LIMIT_S
    while not (found := _listeners(port)):
        assert time.monotonic() < end
    assert found == ["0100007F"]


def _listeners(port):
    """Addresses (hex, as /proc prints them) of sockets that listen at `port`."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    local = [row.split()[1] for row in rows if row.split()[3] == "0A"]
    return [address.split(":")[0] for address in local if int(address.split(":")[1], 16) == port]
