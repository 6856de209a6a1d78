"""autograd.Function in all its forms."""

from __future__ import annotations

from typing import Any

from tests.tensorlib.autograd.scenario import Table

scenario = Table()


def leaf(lib: Any, *values: float) -> Any:
    return lib.tensor(list(values), requires_grad=True)


def make(lib, forward, backward=None, **members):
    """A Function class of the given parts."""
    parts = {"forward": staticmethod(forward), **members}
    if backward is not None:
        parts["backward"] = staticmethod(backward)
    return type("Mine", (lib.autograd.Function,), parts)


@scenario
def plain_use(lib, see):
    def forward(ctx, x, scale):
        ctx.save_for_backward(x)
        ctx.scale = scale
        see(lib.is_grad_enabled(), x.requires_grad, ctx.needs_input_grad)
        return x**3 * scale

    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        see(ctx.needs_input_grad, lib.is_grad_enabled())
        return grad * 3 * x**2 * ctx.scale, None

    x = leaf(lib, 1.0, 2.0)
    f = make(lib, forward, backward)
    y = f.apply(x, 2.0)
    see(y, y.grad_fn.name(), type(y.grad_fn).__name__, y.is_leaf, y.grad_fn.scale)
    see(y.grad_fn.saved_tensors[0] is x, y.grad_fn.next_functions[0][0].name())
    y.sum().backward()
    see(x.grad)
    see.error(lambda: y.sum().backward(), "second time")
    see.error(lambda: y.grad_fn.saved_tensors, "second time")
    see(f.apply(x.detach(), 3.0))
    with lib.no_grad():
        see(f.apply(x, 2.0))


@scenario
def second_derivatives_through_it(lib, see):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 3 * x**2

    x = leaf(lib, 1.0, 2.0)
    f = make(lib, forward, backward)
    (g,) = lib.autograd.grad(f.apply(x).sum(), x, create_graph=True)
    (h,) = lib.autograd.grad(g.sum(), x, create_graph=True)
    see(g, h, lib.autograd.grad(h.sum(), x))


@scenario
def second_derivatives_through_a_saved_output(lib, see):
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        see(y.requires_grad)
        return grad * y

    x = leaf(lib, 0.5, 1.0)
    f = make(lib, forward, backward)
    y = f.apply(x)
    (g,) = lib.autograd.grad(y.sum(), x, create_graph=True)
    see(lib.autograd.grad(g.sum(), x))
    f.apply(x).sum().backward()
    see(x.grad)


@scenario
def setup_context(lib, see):
    def forward(x, y, k=2.0):
        return x * y * k

    def context(ctx, inputs, output):
        x, y, k = inputs
        see(len(inputs), k, output)
        ctx.save_for_backward(x, y)
        ctx.k = k

    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        return grad * y * ctx.k, grad * x * ctx.k, None

    f = make(lib, forward, backward, setup_context=staticmethod(context))
    x, y = leaf(lib, 1.0, 2.0), leaf(lib, 3.0, 4.0)
    f.apply(x, y).sum().backward()
    see(x.grad, y.grad)
    f.apply(x, y, k=3.0).sum().backward()
    see(x.grad, y.grad)


@scenario
def several_outputs(lib, see):
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y, x + y, x.sum()

    def backward(ctx, a, b, c):
        see(a, b, c)
        x, y = ctx.saved_tensors
        return a * y + b + c, a * x + b

    f = make(lib, forward, backward)
    x, y = leaf(lib, 1.0, 2.0), leaf(lib, 3.0, 4.0)
    p, q, r = f.apply(x, y)
    see(p.output_nr, q.output_nr, r.output_nr, p.grad_fn is q.grad_fn)
    q.sum().backward(retain_graph=True)
    see(x.grad, y.grad)
    (p.sum() * r).backward()
    see(x.grad, y.grad)


@scenario
def unused_outputs_give_none_if_asked(lib, see):
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        return x * 1, x * 2

    def backward(ctx, a, b):
        see(a is None, b is None)
        return b * 2 if a is None else a

    f = make(lib, forward, backward)
    x = leaf(lib, 1.0, 2.0)
    b = f.apply(x)[1]
    b.sum().backward()
    see(x.grad)


@scenario
def non_differentiable_outputs(lib, see):
    def forward(ctx, x):
        values, places = x.sort()
        extra = x * 2
        ctx.mark_non_differentiable(places, extra)
        ctx.save_for_backward(places)
        return values, places, extra

    def backward(ctx, a, b, c):
        (places,) = ctx.saved_tensors
        see(b, c)
        return lib.zeros_like(a).index_copy(0, places, a)

    f = make(lib, forward, backward)
    x = leaf(lib, 2.0, 1.0, 3.0)
    values, places, extra = f.apply(x)
    see(values.requires_grad, places.requires_grad, extra.requires_grad)
    (values * lib.arange(3.0)).sum().backward()
    see(x.grad)


@scenario
def integer_outputs_and_other_objects(lib, see):
    def forward(ctx, x):
        return x * 2, x.long(), "text", 3, None

    def backward(ctx, a, b, c, d, e):
        see(a, b, c, d, e)
        return a * 2

    f = make(lib, forward, backward)
    x = leaf(lib, 1.0, 2.0)
    a, b, c, d, e = f.apply(x)
    see(a.requires_grad, b.requires_grad, c, d, e)
    a.sum().backward()
    see(x.grad)


@scenario
def dirty_inputs(lib, see):
    def forward(ctx, x, y):
        x.mul_(2)
        ctx.mark_dirty(x)
        ctx.save_for_backward(y)
        return x

    def backward(ctx, grad):
        return grad * 2, None

    f = make(lib, forward, backward)
    x = leaf(lib, 1.0, 2.0)
    base = x * 3
    out = f.apply(base, lib.ones(2))
    see(out is base, base._version, base.grad_fn.name())
    out.sum().backward()
    see(x.grad)
    see.error(lambda: f.apply(x, lib.ones(2)), "leaf Variable")
    plain = lib.ones(2)
    out = f.apply(plain, lib.ones(2))
    see(out is plain, plain.requires_grad, plain)
    view_base = x * 1
    v = view_base[:1]
    f.apply(v, lib.ones(2))
    view_base.sum().backward()
    see(x.grad)


@scenario
def a_dirty_input_that_is_not_returned(lib, see):
    def forward(ctx, x):
        x.mul_(2)
        ctx.mark_dirty(x)
        return x * 1

    f = make(lib, forward, lambda ctx, g: g)
    x = leaf(lib, 1.0)
    see.error(lambda: f.apply(x * 1), "not returned")


@scenario
def an_input_returned_as_it_came(lib, see):
    f = make(lib, lambda ctx, x: x, lambda ctx, g: g * 5)
    x = leaf(lib, 1.0, 2.0)
    y = f.apply(x)
    see(y is x, y.grad_fn.name(), y.is_leaf)
    y.sum().backward()
    see(x.grad)
    base = x * 1
    out = f.apply(base)
    see.error(lambda: out.mul_(2), "custom Function")
    plain = lib.ones(2)
    see(f.apply(plain).requires_grad)


@scenario
def views_made_in_forward(lib, see):
    f = make(lib, lambda ctx, x: x.view(2, 1), lambda ctx, g: g.view(2) * 5)
    x = leaf(lib, 1.0, 2.0)
    y = f.apply(x * 1)
    y.sum().backward()
    see(x.grad)
    out = f.apply(x * 1)
    see.error(lambda: out.mul_(2), "custom Function")


@scenario
def wrong_gradients(lib, see):
    x, y = leaf(lib, 1.0, 2.0), leaf(lib, 3.0, 4.0)

    def two(ctx, a, b):
        return a + b

    for backward, words in (
        (lambda ctx, g: g, "incorrect number of gradients"),
        (lambda ctx, g: (g, g, g), "incorrect number of gradients"),
        (lambda ctx, g: (g, lib.ones(3)), "invalid gradient at index 1"),
        (lambda ctx, g: (g, 3), ""),
        (lambda ctx, g: (g, "x"), ""),
    ):
        f = make(lib, two, backward)
        see.error(lambda f=f: f.apply(x, y).sum().backward(), words)
    f = make(lib, two, lambda ctx, g: (g, g, None, None))
    f.apply(x, y).sum().backward()
    see(x.grad)
    f = make(lib, two, lambda ctx, g: (g, None))
    f.apply(x, y).sum().backward()
    see(x.grad, y.grad)
    f = make(lib, lambda ctx, a, k: a * k, lambda ctx, g: (g, g))
    see.error(lambda: f.apply(x, 2.0).sum().backward(), "different than None")
    f = make(lib, two, lambda ctx, g: [g, g])
    see.error(lambda: f.apply(x, y).sum().backward(), "incorrect number of gradients")


@scenario
def gradients_that_are_fitted(lib, see):
    x = leaf(lib, 1.0, 2.0)
    f = make(lib, lambda ctx, a: a * 1, lambda ctx, g: lib.ones(3, 2) * 2)
    f.apply(x).sum().backward()
    see(x.grad)
    f = make(lib, lambda ctx, a: a * 1, lambda ctx, g: lib.ones(2, dtype=lib.float64))
    f.apply(x).sum().backward()
    see(x.grad)
    f = make(lib, lambda ctx, a: a * 1, lambda ctx, g: lib.ones(()))
    see.error(lambda: f.apply(x).sum().backward(), "invalid gradient")


@scenario
def missing_parts(lib, see):
    x = leaf(lib, 1.0)
    see.error(lambda: make(lib, lambda ctx, a: a * 2).apply(x).backward(), "implement either the")
    see.error(lambda: type("M", (lib.autograd.Function,), {}).apply(x), "implement the forward")
    f = make(lib, lambda ctx, a: a * 2, lambda ctx, g: g)
    see.error(lambda: f()(x), "static forward method")
    see.error(lambda: f.apply(a=x))


@scenario
def once_differentiable(lib, see):
    once = lib.autograd.function.once_differentiable

    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 3 * x**2

    f = make(lib, forward, once(backward))
    x = leaf(lib, 1.0, 2.0)
    f.apply(x).sum().backward()
    see(x.grad)
    (g,) = lib.autograd.grad((f.apply(x) * x).sum(), x, create_graph=True)
    see(g, g.requires_grad)
    see.error(lambda: g.sum().backward(), "once_differentiable")


@scenario
def saved_values_that_changed(lib, see):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.exp()

    f = make(lib, forward, backward)
    x = leaf(lib, 1.0, 2.0)
    y = x * 1
    z = f.apply(y)
    y.mul_(2)
    see.error(lambda: z.sum().backward(), "modified by an inplace operation")


@scenario
def saving_what_is_no_tensor(lib, see):
    def forward(ctx, x):
        ctx.save_for_backward(x, 3)
        return x * 2

    f = make(lib, forward, lambda ctx, g: g)
    see.error(lambda: f.apply(leaf(lib, 1.0)), "save_for_backward can only save")

    def with_none(ctx, x):
        ctx.save_for_backward(None, x)
        return x * 2

    def backward(ctx, g):
        see(ctx.saved_tensors)
        return g

    f = make(lib, with_none, backward)
    f.apply(leaf(lib, 1.0)).backward()


@scenario
def nested_functions(lib, see):
    class Inner(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2

    class Outer(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            with lib.enable_grad():
                own = x.detach().requires_grad_()
                y = Inner.apply(own)
            ctx.own, ctx.y = own, y
            return y.detach()

        @staticmethod
        def backward(ctx, g):
            (found,) = lib.autograd.grad(ctx.y, ctx.own, g)
            return found * 10

    x = leaf(lib, 1.0, 2.0)
    Outer.apply(x).sum().backward()
    see(x.grad)


@scenario
def tensors_in_containers_and_keyword_like_attributes(lib, see):
    def forward(ctx, pair, x):
        ctx.inputs, ctx.label, ctx.hooks, ctx.sequence = pair, "mine", 3, 4
        return pair[0] * x

    def backward(ctx, g):
        see(ctx.label, ctx.hooks, ctx.sequence, ctx.needs_input_grad)
        return None, g * ctx.inputs[0]

    f = make(lib, forward, backward)
    x, w = leaf(lib, 1.0, 2.0), leaf(lib, 5.0, 6.0)
    y = f.apply((w, 1), x)
    see(y.requires_grad)
    y.sum().backward()
    see(x.grad, w.grad)


@scenario
def vjp_is_another_name_for_backward(lib, see):
    f = make(lib, lambda ctx, x: x * 2, vjp=staticmethod(lambda ctx, g: g * 7))
    x = leaf(lib, 1.0)
    f.apply(x).backward()
    see(x.grad)
    f = make(lib, lambda ctx, x: x * 2, lambda ctx, g: g, vjp=staticmethod(lambda ctx, g: g))
    see.error(lambda: f.apply(x).backward(), "both 'backward' and 'vjp'")


@scenario
def hooks_on_custom_nodes(lib, see):
    f = make(lib, lambda ctx, x: x * 2, lambda ctx, g: g * 2)
    x = leaf(lib, 1.0, 2.0)
    y = f.apply(x)
    seen = []
    y.grad_fn.register_hook(lambda gi, go: seen.append((gi[0].tolist(), go[0].tolist())))
    y.register_hook(lambda g: g * 10)
    y.sum().backward()
    see(seen, x.grad, y.grad_fn.metadata)


@scenario
def none_gradients_reach_custom_functions_as_zeros(lib, see):
    calls = []

    def backward(ctx, g):
        calls.append(g.tolist())
        return g

    up = make(lib, lambda ctx, x: x * 2, backward)
    stop = make(lib, lambda ctx, x: x * 3, lambda ctx, g: None)
    x = leaf(lib, 1.0, 2.0)
    stop.apply(up.apply(x)).sum().backward()
    see(calls, x.grad)


@scenario
def exceptions_pass_through(lib, see):
    def backward(ctx, g):
        raise ValueError("from backward")

    f = make(lib, lambda ctx, x: x * 2, backward)
    x = leaf(lib, 1.0)
    see.error(lambda: f.apply(x).backward(), "from backward")

    def forward(ctx, x):
        raise KeyError("from forward")

    see.error(lambda: make(lib, forward).apply(x), "from forward")
    see(lib.is_grad_enabled())


@scenario
def saved_tensor_hooks_reach_custom_functions(lib, see):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 2 * x

    f = make(lib, forward, backward)
    x = leaf(lib, 1.0, 2.0)
    packed = []

    def pack(t):
        packed.append(t.tolist())
        return t.detach() * 10

    with lib.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = f.apply(x)
    y.sum().backward()
    see(packed, x.grad)
