"""Hooks on tensors, leaves, nodes and several tensors; saved-tensor hooks; edges; anomaly mode."""

from __future__ import annotations

from typing import Any

from tests.tensorlib.autograd.scenario import Table

scenario = Table()


def leaf(lib: Any, *values: float) -> Any:
    return lib.tensor(list(values), requires_grad=True)


@scenario
def tensor_hooks(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = x * 3
    order = []
    y.register_hook(lambda g: order.append(("first", g.tolist())))
    y.register_hook(lambda g: g * 2)
    y.register_hook(lambda g: order.append(("third", g.tolist())))
    handle = x.register_hook(lambda g: g + 100)
    (y * y).sum().backward()
    see(order, x.grad)
    handle.remove()
    handle.remove()
    (x * 1).sum().backward()
    see(x.grad)
    with x.register_hook(lambda g: g * 0):
        (x * 1).sum().backward()
    see(x.grad)
    (x * 1).sum().backward()
    see(x.grad)


@scenario
def hooks_see_the_sum_of_all_uses(lib, see):
    x = leaf(lib, 1.0, 2.0)
    seen = []
    x.register_hook(lambda g: seen.append(g.tolist()))
    y = x * 2
    y.register_hook(lambda g: seen.append(("y", g.tolist())))
    (y * 3 + y.exp() + x).sum().backward()
    see(seen, len(seen))


@scenario
def hooks_that_return_nonsense(lib, see):
    for value in (3, lib.ones(3), lib.ones(2, dtype=lib.float64), "no", [1.0]):
        x = leaf(lib, 1.0, 2.0)
        x.register_hook(lambda g, value=value: value)
        see.error(lambda x=x: (x * 2).sum().backward())
    see.error(lambda: lib.ones(2).register_hook(lambda g: g), "doesn't require gradient")
    x = leaf(lib, 1.0)

    def fails(g):
        raise KeyError("from the hook")

    x.register_hook(fails)
    see.error(lambda: (x * 2).sum().backward(), "from the hook")


@scenario
def hooks_and_grad(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    y.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    out = (y * y).sum()
    see(lib.autograd.grad(out, [x, y], retain_graph=True), x.grad)
    out.backward(inputs=[y], retain_graph=True)
    see(y.grad, x.grad)


@scenario
def hooks_with_create_graph(lib, see):
    x = leaf(lib, 1.0, 2.0)
    flags = []
    y = x**3
    y.register_hook(lambda g: flags.append((g.requires_grad, lib.is_grad_enabled())) or g * x)
    (g,) = lib.autograd.grad((y * y).sum(), x, create_graph=True)
    see(flags, g)
    see(lib.autograd.grad(g.sum(), x))
    flags.clear()
    z = x**2
    z.register_hook(lambda g: flags.append((g.requires_grad, lib.is_grad_enabled())))
    z.sum().backward()
    see(flags)


@scenario
def a_hook_that_changes_its_argument_in_place(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    y.register_hook(lambda g: g.mul_(5))
    (y * lib.ones(2)).sum().backward()
    see(x.grad)


@scenario
def retained_gradients(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda g: g * 10)
    z = y * 3
    z.retain_grad()
    z.sum().backward(retain_graph=True)
    see(y.grad, z.grad, y.retains_grad, z.retains_grad)
    z.sum().backward()
    see(y.grad, x.grad)
    a, b = (x * 2).unbind()
    a.retain_grad()
    b.retain_grad()
    (a * 3 + b * 4).backward()
    see(a.grad, b.grad)
    w = x * 2
    w.retain_grad()
    lib.autograd.grad(w.sum(), x)
    see(w.grad)


@scenario
def post_accumulate_hooks(lib, see):
    x = leaf(lib, 1.0, 2.0)
    seen = []
    handle = x.register_post_accumulate_grad_hook(lambda p: seen.append((p is x, p.grad.tolist())))
    (x * 3).sum().backward()
    (x * 3).sum().backward()
    see(seen)
    handle.remove()
    (x * 3).sum().backward()
    see(len(seen))
    lib.autograd.grad((x * 3).sum(), x)
    see(len(seen))
    see.error(
        lambda: (x * 2).register_post_accumulate_grad_hook(lambda p: None), "non-leaf tensors"
    )
    see.error(lambda: lib.ones(2).register_post_accumulate_grad_hook(lambda p: None))

    def clear(p):
        p.grad = None

    x.register_post_accumulate_grad_hook(clear)
    (x * 3).sum().backward()
    see(x.grad)


@scenario
def node_hooks(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = x * 3
    seen = []

    def after(grad_inputs, grad_outputs):
        seen.append([None if g is None else g.tolist() for g in (*grad_inputs, *grad_outputs)])
        return (grad_inputs[0] * 2, *grad_inputs[1:])

    y.grad_fn.register_hook(after)
    y.grad_fn.register_prehook(lambda grads: (grads[0] + 1,))
    y.sum().backward(retain_graph=True)
    see(seen[0][0], seen[0][-1], x.grad)
    acc = y.grad_fn.next_functions[0][0]
    acc.register_hook(lambda gi, go: seen.append(("acc", list(gi), go[0].tolist())))
    acc.register_prehook(lambda go: (go[0] * 0,))
    y.sum().backward(retain_graph=True)
    see(seen[-1], x.grad)
    z = x.exp()
    z.grad_fn.register_prehook(lambda grads: (grads[0], grads[0]))
    see.error(lambda: z.sum().backward())
    w = x.exp()
    handle = w.grad_fn.register_hook(lambda gi, go: (gi[0], gi[0]))
    see.error(lambda: w.sum().backward())
    handle.remove()


@scenario
def order_of_hooks(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = x.exp()
    order = []
    y.retain_grad()
    y.grad_fn.register_hook(lambda gi, go: order.append("node"))
    y.grad_fn.register_prehook(lambda go: order.append("prehook"))
    y.register_hook(lambda g: order.append("tensor"))
    x.register_post_accumulate_grad_hook(lambda p: order.append("post"))
    x.register_hook(lambda g: order.append("leaf"))
    y.sum().backward()
    see(order)


@scenario
def a_hook_registered_before_a_change_in_place(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    y.register_hook(lambda g: g * 100)
    y.mul_(3)
    y.sum().backward()
    see(x.grad)


@scenario
def multi_grad_hooks(lib, see):
    a, b = leaf(lib, 1.0, 2.0), leaf(lib, 3.0, 4.0)
    c, d = a * b, a * b
    seen = []

    def fn(grads):
        seen.append([g is not None for g in grads])

    handle = lib.autograd.graph.register_multi_grad_hook((a, b, c, d), fn)
    c.sum().backward(retain_graph=True)
    c.sum().backward(inputs=(a,), retain_graph=True)
    see(seen)
    handle.remove()
    c.sum().backward(retain_graph=True)
    see(len(seen))
    first = []
    lib.autograd.graph.register_multi_grad_hook(
        (a, b), lambda g: first.append(g.tolist()), mode="any"
    )
    c.sum().backward(retain_graph=True)
    c.sum().backward()
    see(len(first))
    see.error(lambda: lib.autograd.graph.register_multi_grad_hook((a,), fn, mode="some"))


@scenario
def gradient_edges(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    out = (y * y).sum()
    edge = lib.autograd.graph.get_gradient_edge
    see(lib.autograd.grad(out, edge(y), retain_graph=True))
    see(lib.autograd.grad(out, edge(x), retain_graph=True))
    see(lib.autograd.grad(edge(out), x, lib.tensor(3.0), retain_graph=True))
    see(edge(x).node.name(), edge(y).output_nr, edge(y).node.name())
    see.error(lambda: edge(lib.ones(2)), "does not require gradients")
    a, b = (x * 3).unbind()
    see(edge(b).output_nr)
    see(lib.autograd.grad(a * b, [edge(b), edge(a)], allow_unused=True))


@scenario
def saved_tensor_hooks(lib, see):
    hooks = lib.autograd.graph.saved_tensors_hooks
    x, w = leaf(lib, 1.0, 2.0), leaf(lib, 3.0, 4.0)
    packed, unpacked = [], []

    def pack(t):
        packed.append(t.tolist())
        return t.detach() * 1

    def unpack(t):
        unpacked.append(t.tolist())
        return t

    with hooks(pack, unpack):
        y = x * w
    see(sorted(packed), unpacked)
    y.sum().backward()
    see(sorted(unpacked), x.grad, w.grad)
    with hooks(lambda t: t.detach() * 0, lambda t: t):
        z = x * w
    x.grad = None
    z.sum().backward()
    see(x.grad)
    with hooks(lambda t: t, lambda t: "no tensor"):
        z = x * w
    see.error(lambda: z.sum().backward())

    def in_place(t):
        t.add_(1)
        return t

    plain = lib.ones(2)

    def run():
        with hooks(in_place, lambda t: t):
            x * plain

    see.error(run, "in-place operations")
    with lib.autograd.graph.disable_saved_tensors_hooks("not here"):
        see.error(lambda: hooks(pack, unpack).__enter__(), "not here")
    with hooks(pack, unpack):
        pass


@scenario
def inner_saved_tensor_hooks_win(lib, see):
    hooks = lib.autograd.graph.saved_tensors_hooks
    x = leaf(lib, 1.0, 2.0)
    with hooks(lambda t: t.detach() * 3, lambda t: t):
        with hooks(lambda t: t.detach() * 10, lambda t: t):
            y = x.exp()
        z = x.exp()
    y.sum().backward()
    see(x.grad)
    x.grad = None
    z.sum().backward()
    see(x.grad)


@scenario
def saved_tensor_hooks_and_second_derivatives(lib, see):
    hooks = lib.autograd.graph.saved_tensors_hooks
    x = leaf(lib, 0.5, 2.0)
    with hooks(lambda t: t, lambda t: t):
        y = (x.exp() * x).tanh().sum()
        (g,) = lib.autograd.grad(y, x, create_graph=True)
    see(lib.autograd.grad(g.sum(), x))
    with lib.autograd.graph.save_on_cpu():
        y = (x.exp() * x).sum()
    y.backward()
    see(x.grad)


@scenario
def saved_tensors_that_may_change(lib, see):
    x = leaf(lib, 1.0, 2.0)
    with lib.autograd.graph.allow_mutation_on_saved_tensors():
        y = x * 2
        z = y.exp() * y
        y.mul_(10)
        z.sum().backward()
    see(x.grad)


@scenario
def anomaly_mode_switches(lib, see):
    see(lib.is_anomaly_enabled())
    with lib.autograd.detect_anomaly():
        see(lib.is_anomaly_enabled(), lib.is_anomaly_check_nan_enabled())
    with lib.autograd.detect_anomaly(check_nan=False):
        see(lib.is_anomaly_check_nan_enabled())
    lib.autograd.set_detect_anomaly(True)
    see(lib.is_anomaly_enabled())
    lib.autograd.set_detect_anomaly(False)
    see(lib.is_anomaly_enabled())
    with lib.autograd.set_detect_anomaly(True):
        see(lib.is_anomaly_enabled())
    see(lib.is_anomaly_enabled(), lib.is_anomaly_check_nan_enabled())


@scenario
def anomalies_stop_backward(lib, see):
    def run():
        x = leaf(lib, 0.0, 1.0)
        y = (x * 0).sqrt() * 0
        y.sum().backward()
        return x.grad

    see(run())
    with lib.autograd.detect_anomaly():
        see.error(run, "SqrtBackward0")
        see.error(run, "returned nan values in its 0th output")
    with lib.autograd.detect_anomaly(check_nan=False):
        see(run())
    see(run())


@scenario
def a_hook_on_a_tensor_nobody_differentiates(lib, see):
    x = leaf(lib, 1.0, 2.0)
    seen = []
    a, b = (x * 2).split(1)
    a.register_hook(lambda g: seen.append("a"))
    b.register_hook(lambda g: seen.append("b"))
    a.sum().backward()
    see(seen, x.grad)
