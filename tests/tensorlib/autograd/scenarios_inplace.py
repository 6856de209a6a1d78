"""In-place changes: version checks, views, leaves, outputs of many-view functions."""

from __future__ import annotations

from typing import Any

from tests.tensorlib.autograd.scenario import Table

scenario = Table()


def leaf(lib: Any, *values: float) -> Any:
    return lib.tensor(list(values), requires_grad=True)


@scenario
def leaves_are_refused(lib, see):
    x = leaf(lib, 1.0, 2.0)
    see.error(lambda: x.add_(1), "leaf Variable that requires grad")
    see.error(lambda: x.zero_(), "leaf Variable")
    see.error(lambda: x.fill_(2), "leaf Variable")
    see.error(lambda: x.uniform_(), "leaf Variable")
    see.error(lambda: x.normal_(), "leaf Variable")
    see.error(lambda: x.copy_(lib.ones(2)), "leaf Variable")
    see.error(lambda: x.__setitem__(0, 1.0), "leaf Variable")
    see.error(lambda: x.view(2).mul_(2), "view of a leaf Variable")
    see.error(lambda: x[0].mul_(2), "view of a leaf Variable")
    see.error(lambda: x.exp_(), "leaf Variable")
    see.error(lambda: x.clamp_(0, 1), "leaf Variable")
    see.error(lambda: x.masked_fill_(x > 1, 0.0), "leaf Variable")
    see(x, x._version)
    with lib.no_grad():
        x.add_(1)
        x[0] = 7
        x.view(2).mul_(2)
    see(x, x._version, x.is_leaf)
    x.data.add_(1)
    see(x, x._version)


@scenario
def saved_values_are_guarded(lib, see):
    for make in (
        lambda x: x.exp(),
        lambda x: x.sigmoid(),
        lambda x: x.tanh(),
        lambda x: x.sqrt(),
        lambda x: x.softmax(0),
        lambda x: x.relu(),
        lambda x: x.reciprocal(),
    ):
        x = leaf(lib, 1.0, 2.0)
        y = make(x)
        y.add_(1)
        see.error(lambda y=y: y.sum().backward(), "modified by an inplace operation")
    for use in (
        lambda y: y * y,
        lambda y: y**2,
        lambda y: y.log(),
        lambda y: y.sin(),
        lambda y: y @ y,
        lambda y: y / y,
        lambda y: y.norm(),
        lambda y: y.prod(),
        lambda y: y.cumprod(0),
        lambda y: lib.nn.functional.gelu(y),
        lambda y: y.abs(),
    ):
        x = leaf(lib, 1.0, 2.0)
        y = x * 1
        z = use(y)
        y.mul_(3)
        see.error(lambda z=z: z.sum().backward(), "modified by an inplace operation")
        see.error(lambda z=z: z.sum().backward(), "expected version 0 instead")


@scenario
def values_not_needed_may_change(lib, see):
    for use in (
        lambda y: y + 1,
        lambda y: y * 2,
        lambda y: y.sum(),
        lambda y: y.mean(),
        lambda y: -y,
        lambda y: y.clone(),
        lambda y: y / 4,
        lambda y: y.exp(),
        lambda y: y.sigmoid(),
        lambda y: y.relu(),
        lambda y: y.tanh(),
        lambda y: y * lib.tensor([3.0, 4.0]),
        lambda y: lib.tensor([3.0, 4.0]) * y,
        lambda y: y / lib.tensor([3.0, 4.0]),
        lambda y: y - y,
        lambda y: lib.cat([y, y]),
        lambda y: y.expand(2, 2),
        lambda y: y.softmax(0),
        lambda y: y @ lib.tensor([3.0, 4.0]),
        lambda y: lib.nn.functional.linear(y, lib.ones(3, 2)),
        lambda y: y.masked_fill(lib.tensor([True, False]), 0.0),
    ):
        x = leaf(lib, 1.0, 2.0)
        y = x * 5
        z = use(y)
        with_error = False
        y.add_(100)
        try:
            z.sum().backward()
        except RuntimeError:
            with_error = True
        see(with_error, x.grad)


@scenario
def an_operand_that_wants_no_gradient_is_guarded_only_if_needed(lib, see):
    x = leaf(lib, 1.0, 2.0)
    w = lib.tensor([3.0, 4.0])
    y = x * w
    w.add_(1)
    see.error(lambda: y.sum().backward(), "modified by an inplace")
    m = lib.ones(2, 2)
    y = x @ m
    m.add_(1)
    see.error(lambda: y.sum().backward(), "modified by an inplace")
    mask = lib.tensor([True, False])
    y = x.masked_fill(mask, 0.0)
    mask.logical_not_()
    see.error(lambda: y.sum().backward(), "modified by an inplace")
    index = lib.tensor([0, 1])
    y = x.index_select(0, index)
    index.zero_()
    see.error(lambda: y.sum().backward(), "modified by an inplace")
    index = lib.tensor([0, 1])
    y = x.gather(0, index)
    index.zero_()
    see.error(lambda: y.sum().backward(), "modified by an inplace")
    index = lib.tensor([0, 1])
    y = x[index]
    index.zero_()
    see.error(lambda: y.sum().backward(), "modified by an inplace")
    cond = lib.tensor([True, False])
    y = lib.where(cond, x, x * 2)
    cond.logical_not_()
    see.error(lambda: y.sum().backward(), "modified by an inplace")


@scenario
def in_place_operations_have_gradients(lib, see):
    for change in (
        lambda y: y.add_(3),
        lambda y: y.mul_(3),
        lambda y: y.div_(4),
        lambda y: y.sub_(y * 2),
        lambda y: y.exp_(),
        lambda y: y.sigmoid_(),
        lambda y: y.relu_(),
        lambda y: y.pow_(3),
        lambda y: y.zero_(),
        lambda y: y.fill_(3),
        lambda y: y.clamp_(0, 6),
        lambda y: y.copy_(y * 2),
        lambda y: y.neg_(),
        lambda y: y.sqrt_(),
        lambda y: y.addcmul_(lib.ones(2), y.detach() * 0.5),
        lambda y: y.masked_fill_(lib.tensor([True, False]), 0.0),
        lambda y: y.lerp_(lib.ones(2), 0.3),
        lambda y: y.uniform_(),
    ):
        x = leaf(lib, 1.0, 2.0)
        y = x * 5
        old = y.grad_fn
        result = change(y)
        see(result is y, y.grad_fn is old, y.is_leaf, y._version)
        y.sum().backward()
        see(x.grad)


@scenario
def an_operand_that_is_changed_itself(lib, see):
    for change in (
        lambda y: y.mul_(y),
        lambda y: y.addcmul_(y, y),
        lambda y: y.div_(y),
        lambda y: y.add_(y),
        lambda y: y.pow_(y),
        lambda y: y.copy_(y),
        lambda y: y.maximum(y),
        lambda y: y.mul_(y.detach()),
        lambda y: y.mul_(y.clone()),
    ):
        x = leaf(lib, 1.0, 2.0)
        y = x * 5
        change(y)
        try:
            y.sum().backward()
            see(x.grad)
        except RuntimeError as error:
            see("modified by an inplace operation" in str(error))


@scenario
def memory_that_overlaps(lib, see):
    base = lib.arange(6.0)
    for change in (
        lambda a, b: a.mul_(b),
        lambda a, b: a.add_(b),
        lambda a, b: a.copy_(b),
        lambda a, b: a.__setitem__(slice(None), b),
    ):
        see.error(lambda c=change: c(base[:3], base[1:4]), "single memory location")
    base[:3].mul_(base[3:])
    base[:3].mul_(base[:3])
    see(base)
    square = lib.arange(4.0).view(2, 2)
    see.error(lambda: square.add_(square.t()), "single memory location")
    see(square)


@scenario
def a_constant_starts_to_need_gradients(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = lib.zeros(2)
    y.add_(x * 3)
    see(y.requires_grad, y.is_leaf)
    y.sum().backward()
    see(x.grad)
    z = lib.zeros(3)
    z[:2] = x * 2
    see(z.requires_grad, z.grad_fn.name())
    z.sum().backward()
    see(x.grad)
    see.error(lambda: lib.zeros(2, dtype=lib.int64).add_(x))
    see.error(lambda: lib.zeros(3).add_(x))
    see.error(lambda: lib.zeros(1).add_(x))


@scenario
def views_pass_changes_to_their_base(lib, see):
    x = leaf(lib, 1.0, 2.0, 3.0, 4.0)
    base = x * 1
    v = base[1:3]
    v.mul_(10)
    see(base, base.grad_fn.name(), v.grad_fn.name())
    (base * lib.arange(4.0)).sum().backward()
    see(x.grad)
    x = leaf(lib, 1.0, 2.0, 3.0, 4.0)
    base = x * 1
    v = base.view(2, 2).t()[0]
    base.mul_(3)
    see(v, v.grad_fn.name(), v.requires_grad)
    v.sum().backward()
    see(x.grad)


@scenario
def two_views_of_one_base(lib, see):
    x = leaf(lib, 1.0, 2.0, 3.0)
    base = x * 2
    a, b = base[:2], base[1:]
    a.mul_(b.clone())
    b.add_(a.clone())
    see(base, a, b)
    (a.sum() + (b * 2).sum() + (base * 3).sum()).backward()
    see(x.grad)


@scenario
def a_view_of_a_constant_that_gets_a_history(lib, see):
    x = leaf(lib, 1.0, 2.0)
    base = lib.zeros(2, 2)
    row = base[0]
    other = base[1]
    row.copy_(x)
    see(base.requires_grad, other.requires_grad, row.requires_grad)
    (base * 2).sum().backward()
    see(x.grad)
    base2 = lib.zeros(2, 2)
    column = base2[:, 1]
    base2.add_(x)
    see(column.requires_grad)
    column.sum().backward()
    see(x.grad)


@scenario
def setitem(lib, see):
    x = leaf(lib, 1.0, 2.0, 3.0)
    for place in (0, slice(1, None), lib.tensor([0, 2]), lib.tensor([True, False, True]), ...):
        y = x * 2
        y[place] = 5.0
        y.sum().backward()
        see(y, x.grad)
        x.grad = None
    y = x * 2
    y[0] = y[1] * y[2]
    see.error(lambda: y.sum().backward(), "modified by an inplace operation")
    y = x * 2
    y[0] = y[1] + y[2]
    y.sum().backward()
    see(x.grad)
    y = lib.zeros(2, 3)
    y[1] = x
    y[lib.tensor([0])] = x * 2
    x.grad = None
    y.square().sum().backward()
    see(x.grad)


@scenario
def outputs_of_many_view_functions_are_not_changed(lib, see):
    x = leaf(lib, 1.0, 2.0, 3.0, 4.0)
    for cut in (
        lambda b: b.unbind()[0],
        lambda b: b.split(2)[0],
        lambda b: b.chunk(2)[1],
        lambda b: b.view(2, 2).unbind(1)[0],
        lambda b: b.split(2)[0].view(2, 1),
        lambda b: b.tensor_split(2)[0],
        lambda b: b.hsplit(2)[0],
        lambda b: next(iter(b)),
        lambda b: b.split([1, 3])[1],
        lambda b: b.unsafe_split(2)[0],
        lambda b: b.unsafe_chunk(2)[0],
    ):
        base = x * 2
        part = cut(base)
        try:
            part.mul_(2)
            see("allowed")
        except RuntimeError as error:
            see("multiple views" in str(error))
    base = x * 2
    part = base.unbind()[0]
    base.mul_(2)
    see.error(lambda: (part * 2).backward(), "multiple views")
    with lib.no_grad():
        part = (x * 2).unbind()[0]
        part.mul_(2)
    plain = lib.ones(4)
    plain.unbind()[0].mul_(2)
    see(plain)
    see.error(lambda: plain.unbind()[0].mul_(x[0]), "multiple views")


@scenario
def views_made_under_no_grad(lib, see):
    x = leaf(lib, 1.0, 2.0)
    base = x * 2
    with lib.no_grad():
        v = base[0]
    see(v.requires_grad)
    see.error(lambda: v.mul_(x[0]), "no_grad mode")
    with lib.no_grad():
        v.mul_(2)
    see(base)
    c = lib.ones(2)
    with lib.no_grad():
        w = c[0]
    w.mul_(2)
    see.error(lambda: w.mul_(x[0]), "no_grad mode")
    with lib.no_grad():
        u = x.view(2)
    see(u.requires_grad, u.is_leaf)
    see.error(lambda: u.mul_(2), "")


@scenario
def versions(lib, see):
    x = lib.ones(2)
    see(x._version)
    x.add_(1)
    see(x._version)
    x[0] = 3
    see(x._version)
    v = x.view(2)
    see(v._version)
    v.mul_(2)
    see(x._version, v._version)
    x.zero_()
    x.fill_(1)
    see(x._version)
    lib.add(x, x, out=x)
    see(x._version)
    x.copy_(lib.zeros(2))
    see(x._version)
    x.detach().add_(1)
    see(x._version, x.data._version)
    lib.autograd.graph.increment_version(x)
    see(x._version)
    lib.autograd.graph.increment_version([x, x])
    see(x._version)
    see(x.clone()._version, x.contiguous()._version)


@scenario
def in_place_on_a_retained_tensor(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    y.retain_grad()
    seen = []
    y.register_hook(lambda g: seen.append(g.tolist()))
    y.mul_(3)
    y.register_hook(lambda g: seen.append(("after", g.tolist())))
    y.sum().backward()
    see(y.grad, x.grad, seen)


@scenario
def chains_of_in_place_changes(lib, see):
    x = leaf(lib, 0.5, 1.5)
    y = x.clone()
    for _ in range(3):
        y.mul_(2).add_(1)
        y[0] = y[0] * 2 - y[1]
    y.sum().backward()
    see(y, x.grad)
    x = leaf(lib, 0.5, 1.5)
    y = x.clone()
    y += y
    y *= x
    y -= 1
    y /= 2
    y.sum().backward()
    see(x.grad)


@scenario
def second_derivatives_through_in_place(lib, see):
    x = leaf(lib, 0.5, 1.5)
    y = x * 1
    y.mul_(x)
    y[0] = y[0] + x[1].exp()
    v = y.view(2, 1)
    v.mul_(x.view(2, 1) * 2)
    (g,) = lib.autograd.grad(y.sum(), x, create_graph=True)
    see(g)
    see(lib.autograd.grad((g * g).sum(), x))


@scenario
def overlapping_and_expanded_memory(lib, see):
    x = lib.ones(3)
    see.error(lambda: x.expand(2, 3).add_(1), "single memory location")
    see.error(lambda: x.expand(2, 3).__setitem__(0, 1.0))


@scenario
def results_written_by_out(lib, see):
    x = leaf(lib, 1.0, 2.0)
    out = lib.zeros(2)
    see.error(lambda: lib.add(x, 1, out=out), "out=")
    with lib.no_grad():
        lib.add(x, 1, out=out)
    see(out, out.requires_grad)
    see.error(lambda: lib.add(lib.ones(2), 1, out=x), "out=")


@scenario
def in_place_random_and_requires_grad(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    y.normal_()
    see(y.requires_grad)
    y.sum().backward()
    see(x.grad)


@scenario
def assigning_augmented(lib, see):
    x = leaf(lib, 1.0, 2.0)

    def change():
        nonlocal x
        x += 1

    see.error(change, "leaf Variable")
    y = x * 2
    z = y
    y += 1
    see(y is z, z)
    with lib.no_grad():
        x -= 0.5
    see(x, x.requires_grad, x.is_leaf)
