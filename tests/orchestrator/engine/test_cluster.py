"""Where workers fit: free CPUs, on nodes that answer."""

from __future__ import annotations

import os
import socket

import pytest
import ray
import ray._private.state

from orchestrator.engine import cluster
from orchestrator.errors import BackendUnavailable


def test_workers_fit_where_cpus_are_free_on_nodes_that_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as answering:
        port = answering.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as closed:
            gone = closed.getsockname()[1]

        def node(name: str, port: int, alive: bool = True) -> dict[str, object]:
            return {
                "NodeID": name,
                "Alive": alive,
                "NodeManagerAddress": "127.0.0.1",
                "NodeManagerPort": port,
            }

        nodes = [node("a", port), node("b", port), node("lost", gone), node("dead", port, False)]
        free = {"a": {"CPU": 3.0}, "b": {"CPU": 5.0}, "lost": {"CPU": 8.0}, "dead": {"CPU": 8.0}}
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        monkeypatch.setattr(ray._private.state, "available_resources_per_node", lambda: free)
        assert cluster.free_places(2) == ["b", "b", "a"]
        assert cluster.free_places(6) == []
        free["b"] = {"memory": 1.0}  # all of its CPUs are held
        assert cluster.free_places(1) == ["a", "a", "a"]


def test_a_cluster_that_is_not_there_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(ray._private.worker, "print_to_stdstream", print)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with (
        pytest.raises(BackendUnavailable, match=f"Ray at {address}: could not be reached: .*refus"),
        cluster.connect(address, 1),
    ):
        pass
