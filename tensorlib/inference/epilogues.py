"""What follows a convolution or product put into it: sums, then limits."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tensorlib.inference.graph import Graph
from tensorlib.inference.templates import Ref
from tensorlib.inference.trace import Call

__all__ = ["fuse_epilogues"]


def fuse_epilogues(graph: Graph, counts: Counter[str]) -> None:
    """Sums, then limits, into the convolution or product that makes their operand last."""
    order = {id(call): place for place, call in enumerate(graph.calls)}
    changed = True
    while changed:
        changed = False
        users, makers = graph.users(), graph.makers()
        for call in graph.calls:
            into = _takes_sum(graph, call, users, makers, order)
            if into is not None:
                maker, residual = into
                maker.arguments["residual"] = residual
                counts["sums fused"] += 1
            else:
                found = _takes_limit(graph, call, users, makers)
                if found is None:
                    continue
                maker, maker.arguments["low"], maker.arguments["high"] = found
                counts["activations fused"] += 1
            maker.result = call.result
            graph.calls = [c for c in graph.calls if c is not call]
            changed = True
            break


def _makes(graph: Graph, template: Any, users: Any, makers: Any) -> Call | None:
    """The convolution or product without limits that makes a value with one user."""
    if type(template) is not Ref or len(users[template.index]) != 1:
        return None
    maker: Call | None = makers.get(template.index)
    if maker is None or maker.name not in ("convolution", "product"):
        return None
    if maker.arguments["low"] is not None or maker.arguments["high"] is not None:
        return None
    return maker


def _takes_sum(
    graph: Graph, call: Call, users: Any, makers: Any, order: dict[int, int]
) -> tuple[Call, Ref] | None:
    if call.name != "add" or call.arguments.get("alpha", 1) != 1 or call.changed:
        return None
    a, b = call.arguments["input"], call.arguments["other"]
    if type(a) is not Ref or type(b) is not Ref or a == b:
        return None
    x, y = graph.values[a.index], graph.values[b.index]
    if x.shape != y.shape or x.dtype != y.dtype:
        return None
    best = None
    for own, other in ((a, b), (b, a)):
        maker = _makes(graph, own, users, makers)
        if maker is None or maker.arguments["residual"] is not None:
            continue
        if maker.arguments.get("levels") is not None:  # its kernel adds nothing
            continue
        before = makers.get(other.index)
        if before is not None and order[id(before)] > order[id(maker)]:
            continue  # it is not there yet when the convolution runs
        best = maker, other
    return best


def _takes_limit(
    graph: Graph, call: Call, users: Any, makers: Any
) -> tuple[Call, float | None, float | None] | None:
    limits = _limits(call)
    if limits is None or call.changed:
        return None
    maker = _makes(graph, call.arguments.get("input"), users, makers)
    if maker is None or graph.values[call.outputs()[0]].dtype.kind != "f":
        return None
    return maker, *limits


def _limits(call: Call) -> tuple[float | None, float | None] | None:
    """The interval that an activation limits to."""
    if call.name == "relu":
        return 0.0, None
    if call.name == "relu6":
        return 0.0, 6.0
    if call.name == "hardtanh":
        return call.arguments["min_val"], call.arguments["max_val"]
    if call.name in ("clamp", "clip"):
        low, high = call.arguments.get("min"), call.arguments.get("max")
        if all(x is None or type(x) in (int, float) for x in (low, high)) and low != high:
            return low, high
    return None
