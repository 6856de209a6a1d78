"""backward, grad, accumulation, freed graphs, roots and seeds."""

from __future__ import annotations

from typing import Any

from tests.tensorlib.autograd.scenario import Table

scenario = Table()


def leaf(lib: Any, *values: float, dtype: Any = None) -> Any:
    return lib.tensor(list(values), dtype=dtype, requires_grad=True)


@scenario
def gradients_accumulate(lib, see):
    x = leaf(lib, 1.0, 2.0)
    (x * 3).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    see(x.grad, first is x.grad, first, first._version)
    x.grad.zero_()
    see(first)
    x.grad = None
    see(x.grad)


@scenario
def create_graph_accumulates_out_of_place(lib, see):
    x = leaf(lib, 1.0, 2.0)
    (x**3).sum().backward(create_graph=True)
    first = x.grad
    see(first, first.grad_fn is not None)
    (x**2).sum().backward(create_graph=True)
    see(first, x.grad, x.grad is first)
    x.grad.sum().backward()
    see(x.grad)
    (x * 2).sum().backward()
    see(x.grad)


@scenario
def second_backward_needs_the_graph(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    see(x.grad)
    see.error(y.backward, "retain_graph=True")
    see.error(y.backward, "a second time")
    see(x.grad)


@scenario
def nodes_that_save_nothing_run_twice(lib, see):
    for make in (
        lambda x: x + 1,
        lambda x: x - x,
        lambda x: -x,
        lambda x: x.sum(),
        lambda x: x.mean(),
        lambda x: x.view(2, 1),
        lambda x: x.reshape(1, 2),
        lambda x: x[0],
        lambda x: x.clone(),
        lambda x: x.unsqueeze(0).squeeze(0),
        lambda x: x.expand(3, 2),
        lambda x: lib.cat([x, x]),
        lambda x: lib.stack([x, x]),
        lambda x: x.double(),
        lambda x: x.t(),
    ):
        x = leaf(lib, 1.0, 2.0)
        y = make(x).sum()
        y.backward()
        y.backward()
        see(x.grad)
    for make in (
        lambda x: x * 2,
        lambda x: x * x,
        lambda x: x / 3,
        lambda x: x.exp(),
        lambda x: x.relu(),
        lambda x: x**2,
        lambda x: x @ x,
        lambda x: x.sigmoid(),
        lambda x: x.softmax(0),
        lambda x: x.max(),
        lambda x: x.sort().values,
    ):
        x = leaf(lib, 1.0, 2.0)
        y = make(x).sum()
        y.backward()
        see.error(y.backward, "second time")


@scenario
def shared_subgraphs_and_a_partial_free(lib, see):
    x = leaf(lib, 3.0)
    shared = x * x
    a, b = shared * 2, shared * 3
    a.backward(lib.ones(1))
    see.error(lambda: b.backward(lib.ones(1)), "second time")
    see(x.grad)


@scenario
def roots_that_cannot_be_differentiated(lib, see):
    x = leaf(lib, 1.0, 2.0)
    see.error(lambda: (x * 2).backward(), "only for scalar outputs")
    see.error(lambda: lib.ones(1).backward(), "element 0 of tensors does not require grad")
    see.error(
        lambda: lib.autograd.backward([(x * 2).sum(), lib.ones(())]),
        "element 1 of tensors does not require grad",
    )
    see.error(lambda: (x * 2).backward(lib.ones(3)), "mismatch in shape")
    see.error(lambda: (x * 2).backward(1.0))
    see.error(lambda: (x * 2).backward([1.0]), "gradients can be either Tensors or None")
    see.error(lambda: (x * 2).backward([1.0, 2.0]))
    see.error(lambda: lib.autograd.backward([x.sum()], [None, None]))
    see.error(lambda: lib.autograd.grad(lib.ones(1), x), "does not require grad")
    see.error(lambda: lib.autograd.backward((x * 2).sum(), inputs=[]), "cannot be empty")
    see.error(lambda: lib.autograd.grad((x * 2).sum(), []))
    see(x.grad)


@scenario
def a_root_that_is_a_leaf(lib, see):
    x = lib.tensor(3.0, requires_grad=True)
    x.backward()
    see(x.grad)
    x.backward(lib.tensor(5.0))
    see(x.grad)
    see(lib.autograd.grad(x, x))
    y = leaf(lib, 1.0, 2.0)
    lib.autograd.backward([y, (y * y).sum()], [lib.ones(2), None])
    see(y.grad)
    # the given gradient is not shared with .grad
    g = lib.ones(2)
    z = leaf(lib, 1.0, 2.0)
    z.backward(g)
    g.add_(1)
    see(z.grad)


@scenario
def the_same_root_twice(lib, see):
    x = leaf(lib, 2.0)
    y = x * x
    lib.autograd.backward([y, y], [lib.ones(1), lib.ones(1) * 3])
    see(x.grad)
    z = x * x
    see(lib.autograd.grad([z, z * 2], [x, x], [lib.ones(1), lib.ones(1)]))


@scenario
def seeds_of_other_dtypes(lib, see):
    x = leaf(lib, 1.0, 2.0)
    (x * 2).backward(lib.ones(2, dtype=lib.float64))
    see(x.grad)
    (x * 2).backward(lib.ones(2, dtype=lib.int64))
    see(x.grad)
    see.error(lambda: (x * 2).backward(lib.ones(2, dtype=lib.complex64)), "complex")
    c = lib.tensor([1 + 2j], requires_grad=True)
    see.error(lambda: (c * 2).sum().backward(), "real scalar outputs")
    see.error(lambda: (c * 2).backward(lib.ones(1)), "complex")
    (c * 2j).backward(lib.ones(1, dtype=lib.complex64))
    see(c.grad)


@scenario
def grad_returns_and_leaves_grad_alone(lib, see):
    x, y = lib.tensor(3.0, requires_grad=True), lib.tensor(4.0, requires_grad=True)
    middle = x * y
    see(lib.autograd.grad(middle * x, [x, y, middle]), x.grad)
    unused = lib.tensor(1.0, requires_grad=True)
    see.error(lambda: lib.autograd.grad(x * 2, unused), "not have been used in the graph")
    see(lib.autograd.grad(x * 2, unused, allow_unused=True))
    see(lib.autograd.grad(x * 2, [x, unused], materialize_grads=True))
    see.error(lambda: lib.autograd.grad(x * 2, unused, allow_unused=False, materialize_grads=True))
    plain = lib.tensor(1.0)
    see.error(lambda: lib.autograd.grad(x * 2, plain), "does not require grad")
    see.error(lambda: lib.autograd.grad(x * 2, plain, allow_unused=True))
    see(lib.autograd.grad((x * y,), (x,), (lib.tensor(2.0),)))
    see(lib.autograd.grad(x * y, x, lib.tensor(2.0)))
    see.error(lambda: lib.autograd.grad([x * y, x], [x], [lib.tensor(2.0)]))


@scenario
def grad_of_grad(lib, see):
    x = lib.tensor(2.0, requires_grad=True)
    y = x**4
    (g,) = lib.autograd.grad(y, x, create_graph=True)
    (h,) = lib.autograd.grad(g, x, create_graph=True)
    (k,) = lib.autograd.grad(h, x)
    see(g, h, k, g.requires_grad, k.requires_grad)
    (g,) = lib.autograd.grad(x**3, x, retain_graph=True)
    see(g.requires_grad, g.grad_fn)


@scenario
def backward_into_inputs_only(lib, see):
    x, y = leaf(lib, 1.0, 2.0), leaf(lib, 3.0, 4.0)
    middle = x * y
    out = (middle * x).sum()
    out.backward(inputs=[x], retain_graph=True)
    see(x.grad, y.grad)
    out.backward(inputs=y, retain_graph=True)
    see(x.grad, y.grad)
    lib.autograd.backward(out, inputs=(middle,))
    see(middle.grad, x.grad)


@scenario
def grad_assignment(lib, see):
    x = leaf(lib, 1.0, 2.0)

    def put(value):
        x.grad = value

    see.error(lambda: put(lib.ones(3)), "size")
    see.error(lambda: put(lib.ones(2, dtype=lib.float64)))
    see.error(lambda: put(3.0))
    see.error(lambda: put("no"))
    see.error(lambda: put(x))
    put(lib.ones(2))
    see(x.grad)
    put(None)
    see(x.grad)
    del x.grad
    see(x.grad)
    y = x * 2
    y.grad = lib.ones(2)
    see(y.grad)


@scenario
def grad_follows_the_layout_of_the_leaf(lib, see):
    x = lib.ones(2, 3).t().requires_grad_()
    (x * lib.arange(6.0).view(3, 2)).sum().backward()
    see(x.grad, x.grad.stride() == x.stride())
    y = lib.ones(3, requires_grad=True)
    y.sum().backward()
    see(y.grad.stride())
    y.grad.add_(1)
    see(y.grad)


@scenario
def leaves_and_flags(lib, see):
    x = lib.ones(2)
    see(x.is_leaf, x.requires_grad, x.grad_fn, x.output_nr)
    x.requires_grad_()
    y = x * 2
    see(y.is_leaf, y.requires_grad, y.detach().is_leaf, y.detach().requires_grad)
    see.error(lambda: y.requires_grad_(False), "leaf variables")
    see(y.requires_grad_().requires_grad)
    see.error(lambda: lib.ones(2, dtype=lib.int64).requires_grad_(), "floating")
    see.error(lambda: lib.ones(2, dtype=lib.int64, requires_grad=True), "floating")
    see(lib.ones(2, dtype=lib.int64).requires_grad_(False).requires_grad)

    def put(t, value):
        t.requires_grad = value

    put(x, False)
    see(x.requires_grad)
    see.error(lambda: put(y, False), "leaf")
    see.error(lambda: put(x, "yes"))
    see.error(lambda: lib.tensor([1, 2], requires_grad=True))
    see((x > 0).requires_grad, y.argmax().requires_grad)


@scenario
def warning_free_reads_of_grad(lib, see):
    x = leaf(lib, 1.0)
    y = x * 2
    see(y.grad)
    y.retain_grad()
    y.sum().backward()
    see(y.grad, y.retains_grad, x.retains_grad)
    x.retain_grad()
    see(x.retains_grad)
    see.error(lambda: lib.ones(1).retain_grad(), "requires_grad=False")


@scenario
def tensors_that_go_two_ways(lib, see):
    x = leaf(lib, 3.0)
    y = x * x
    (y * x + y).sum().backward()
    see(x.grad)
    a, b = (x * lib.ones(4)).split(2)
    a.sum().backward(retain_graph=True)
    b.sum().backward()
    see(x.grad)
    values, index = (x * lib.tensor([3.0, 1.0])).sort()
    see(values.requires_grad, index.requires_grad)
    values[0].backward()
    see(x.grad)


@scenario
def names_of_nodes(lib, see):
    x = leaf(lib, 1.0, 2.0)
    m = lib.ones(2, 2, requires_grad=True)
    for y in (
        x + x,
        x + 1,
        x - x,
        x * x,
        x / x,
        -x,
        x**2,
        x.exp(),
        x.log(),
        x.sum(),
        x.sum(0),
        x.mean(),
        x.view(2, 1),
        x.unsqueeze(0),
        x.clone(),
        m @ m,
        m.t(),
        m.transpose(0, 1),
        x.relu(),
        x.sigmoid(),
        x.tanh(),
        x.softmax(0),
        x.log_softmax(0),
        x[0],
        x[0:1],
        lib.cat([x, x]),
        lib.stack([x, x]),
        x.expand(2, 2),
        x.abs(),
        x.sqrt(),
        x.max(),
        x.unbind()[0],
        x.split(1)[0],
        x.double(),
        lib.nn.functional.linear(x, m),
        lib.nn.functional.linear(m, m, x),
        m.permute(1, 0),
        m.select(0, 0),
        x.clamp(0, 1),
        lib.where(x > 1, x, x),
        x.std(),
        x.var(),
        x.norm(),
        m.diagonal(),
        x.masked_fill(x > 1, 0.0),
        x.dot(x),
        m.mv(x),
        x.cumsum(0),
        x.prod(),
        lib.nn.functional.dropout(x, 0.5),
        lib.nn.functional.mse_loss(x, x.detach()),
    ):
        see(y.grad_fn.name())
        see(repr(y.grad_fn).partition(" ")[0].strip("<>"))


@scenario
def walking_the_graph(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = (x * x).exp().sum()
    node = y.grad_fn
    names = []
    while node is not None:
        names.append(node.name())
        after = node.next_functions
        see(len(after))
        node = after[0][0] if after else None
    see(names)
    acc = (x * 2).grad_fn.next_functions[0][0]
    see(acc.name(), acc.variable is x, acc is (x * 3).grad_fn.next_functions[0][0])
    a, b = (x * 2).unbind()
    see(a.output_nr, b.output_nr, a.grad_fn is b.grad_fn)
    see((x + lib.ones(2)).grad_fn.next_functions[1])
    see(isinstance(y.grad_fn, lib.autograd.graph.Node), isinstance(acc, lib.autograd.graph.Node))
    see(y.grad_fn.metadata, y.grad_fn is y.grad_fn)


@scenario
def gradients_of_zero_sized_tensors(lib, see):
    x = lib.ones(0, 3, requires_grad=True)
    (x * 2).sum().backward()
    see(x.grad)
    y = lib.ones(2, 0, requires_grad=True)
    y.sum(1).sum().backward()
    see(y.grad)


@scenario
def broadcasting_is_undone(lib, see):
    a, b = lib.ones(3, 1, requires_grad=True), lib.ones(1, 4, requires_grad=True)
    c = lib.tensor(2.0, requires_grad=True)
    (a * b * c).sum().backward()
    see(a.grad, b.grad, c.grad)


@scenario
def mixed_dtypes(lib, see):
    a = lib.ones(2, requires_grad=True)
    b = lib.ones(2, dtype=lib.float64, requires_grad=True)
    (a * b).sum().backward()
    see(a.grad, b.grad)
    c = lib.tensor([1.0, 2.0], requires_grad=True)
    z = c * lib.tensor([1 + 1j, 2 - 1j])
    (z * z.conj()).real.sum().backward()
    see(c.grad)


@scenario
def complex_gradients(lib, see):
    def value(*numbers):
        return lib.tensor(list(numbers), dtype=lib.complex128, requires_grad=True)

    for f in (
        lambda z: z.abs().sum(),
        lambda z: z.real.sum(),
        lambda z: z.imag.sum(),
        lambda z: (z * z).real.sum(),
        lambda z: (z.exp() * 2j).imag.sum(),
        lambda z: (z / (1 + z.conj() * z)).real.sum(),
        lambda z: z.angle().sum(),
        lambda z: (z**3).imag.sum(),
        lambda z: z.sum().abs(),
        lambda z: z.prod().real,
        lambda z: z.sqrt().real.sum(),
        lambda z: z.log().imag.sum(),
        lambda z: z.sin().real.sum(),
        lambda z: lib.view_as_real(z).square().sum(),
        lambda z: z.cumsum(0).imag.sum(),
        lambda z: (z.outer(z)).real.sum(),
        lambda z: lib.dot(z, z.conj()).real,
        lambda z: lib.vdot(z, z).real,
        lambda z: z.mean().abs(),
        lambda z: z.reciprocal().imag.sum(),
        lambda z: z.tanh().real.sum(),
        lambda z: z.sigmoid().real.sum(),
        lambda z: z.sgn().real.sum(),
    ):
        z = value(1 + 2j, -0.5 + 0.3j)
        f(z).backward()
        see(z.grad)


@scenario
def depth_needs_no_recursion(lib, see):
    x = lib.tensor(0.0, requires_grad=True)
    y = x
    for _ in range(5_000):
        y = y + 1
    y.backward()
    see(x.grad)
    del y


@scenario
def is_grads_batched(lib, see):
    x = leaf(lib, 1.0, 2.0)
    see.error(lambda: lib.autograd.grad(x * 2, x, lib.ones(3), is_grads_batched=True))


@scenario
def deepcopy_and_pickle_of_graphs(lib, see):
    import copy

    x = leaf(lib, 1.0, 2.0)
    see.error(lambda: copy.deepcopy(x * 2), "graph leaves")
    x.sum().backward()
    y = copy.deepcopy(x)
    see(y, y.grad, y.is_leaf)
    see.error(lambda: (x * 2).numpy(), "detach().numpy()")
    see.error(lambda: x.numpy())


@scenario
def items_with_grad(lib, see):
    x = leaf(lib, 1.5)
    see(x.item(), float(x), int(x), bool(x), x.tolist())


@scenario
def where_a_none_gradient_stops(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    (y.detach() * x).sum().backward()
    see(x.grad)
    z = x.round()
    see(z.requires_grad)
    z.sum().backward()
    see(x.grad)
    w = leaf(lib, 1.0, 2.0)
    (w.sign() + w.floor()).sum().backward()
    see(w.grad)


@scenario
def data_bypasses_the_tape(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = x * x
    x.data.mul_(10)
    y.sum().backward()
    see(x.grad, x._version, x.data.requires_grad)
    x.data = lib.tensor([5.0, 6.0, 7.0])
    see(x, x.is_leaf)

    def put(value):
        x.data = value

    see.error(lambda: put(lib.tensor([1, 2])))
    see.error(lambda: put(3))
    put(lib.tensor([1.0, 2.0], dtype=lib.float64))
    see(x)


@scenario
def detach_shares_memory_and_version(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    d = y.detach()
    d.add_(1)
    see(y, d._version, y._version, d.requires_grad, d.is_leaf)
    z = x.exp()
    d = z.detach()
    d.zero_()
    see.error(lambda: z.sum().backward(), "modified by an inplace operation")
    w = x * 3
    r = w.detach_()
    see(r is w, w.requires_grad, w.is_leaf, w.grad_fn)
    v = (x * 2)[0]
    see.error(lambda: v.detach_(), "detach views in-place")
    see(x.detach()._is_view(), (x * 1)[0]._is_view(), x._is_view(), x.view(2)._base is x)
    see(x.detach()._base is x, x.view(2).view(1, 2)._base is x, x._base)
