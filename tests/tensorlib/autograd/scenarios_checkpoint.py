"""utils.checkpoint: both ways, random numbers, nesting, refusals."""

from __future__ import annotations

from typing import Any

from tests.tensorlib.autograd.scenario import Table

scenario = Table()


def tools(lib: Any) -> Any:
    import importlib

    return importlib.import_module(lib.__name__ + ".utils.checkpoint")


def leaf(lib: Any, *values: float) -> Any:
    return lib.tensor(list(values), requires_grad=True)


@scenario
def gradients_are_those_without(lib, see):
    checkpoint = tools(lib).checkpoint
    w = leaf(lib, 0.5, -1.0)
    for reentrant in (True, False):
        runs = []

        def f(x, k, runs=runs):
            runs.append(lib.is_grad_enabled())
            return (x.exp() * w).sin() * k, x * 2

        x = leaf(lib, 0.3, 0.7)
        w.grad = None
        a, b = checkpoint(f, x, 3.0, use_reentrant=reentrant)
        see(a, b, runs)
        (a * b).sum().backward()
        see(x.grad, w.grad, runs)


@scenario
def random_numbers_are_repeated(lib, see):
    checkpoint = tools(lib).checkpoint
    drop = lib.nn.functional.dropout
    for reentrant in (True, False):
        for preserve in (True, False):
            lib.manual_seed(3)
            x = lib.ones(20, requires_grad=True)
            y = checkpoint(
                lambda x: drop(x * 2, 0.5).exp(),
                x,
                use_reentrant=reentrant,
                preserve_rng_state=preserve,
            )
            y.sum().backward()
            see(((y > 1) == (x.grad > 0)).all().item() or not preserve, lib.rand(2))


@scenario
def grad_and_inputs(lib, see):
    checkpoint = tools(lib).checkpoint
    x = leaf(lib, 0.3, 0.7)
    y = checkpoint(lambda x: x.exp().sin(), x, use_reentrant=False)
    see(lib.autograd.grad(y.sum(), x))
    y = checkpoint(lambda x: x.exp().sin(), x, use_reentrant=True)
    see.error(lambda: lib.autograd.grad(y.sum(), x), "use_reentrant=False")
    y = checkpoint(lambda x: x.exp().sin(), x, use_reentrant=True)
    see.error(lambda: y.sum().backward(inputs=[x]), "use_reentrant=False")


@scenario
def second_derivatives(lib, see):
    checkpoint = tools(lib).checkpoint
    x = leaf(lib, 0.3, 0.7)
    y = checkpoint(lambda x: (x.exp() * x).sin(), x, use_reentrant=False)
    (g,) = lib.autograd.grad(y.sum(), x, create_graph=True)
    see(g)
    see(lib.autograd.grad(g.sum(), x))


@scenario
def nested(lib, see):
    checkpoint = tools(lib).checkpoint
    for outer in (True, False):
        for inner in (True, False):
            counts = {"inner": 0, "outer": 0}

            def small(x, counts=counts):
                counts["inner"] += 1
                return x.exp().sin()

            def big(x, inner=inner, counts=counts, small=small):
                counts["outer"] += 1
                y = checkpoint(small, x * 2, use_reentrant=inner)
                return checkpoint(small, y.tanh(), use_reentrant=inner) * x

            x = leaf(lib, 0.3, 0.7)
            checkpoint(big, x, use_reentrant=outer).sum().backward()
            see(x.grad, counts)


@scenario
def retained_graphs(lib, see):
    checkpoint = tools(lib).checkpoint
    x = leaf(lib, 0.3, 0.7)
    y = checkpoint(lambda x: x.exp().sin(), x, use_reentrant=False).sum()
    y.backward(retain_graph=True)
    y.backward()
    see(x.grad)
    see.error(y.backward, "second time")


@scenario
def keyword_arguments(lib, see):
    checkpoint = tools(lib).checkpoint
    x = leaf(lib, 0.3, 0.7)
    y = checkpoint(lambda x, *, k: (x * k).exp(), x, k=x * 2, use_reentrant=False)
    y.sum().backward()
    see(x.grad)
    see.error(
        lambda: checkpoint(lambda x, k: x * k, x, k=3, use_reentrant=True),
        "Unexpected keyword arguments",
    )


@scenario
def inputs_without_gradients(lib, see):
    checkpoint = tools(lib).checkpoint
    w = leaf(lib, 0.5, -1.0)
    x = lib.ones(2)
    y = checkpoint(lambda x: (x * w).exp(), x, use_reentrant=True)
    see(y.requires_grad)
    y = checkpoint(lambda x: (x * w).exp(), x, use_reentrant=False)
    y.sum().backward()
    see(w.grad)
    with lib.no_grad():
        see(checkpoint(lambda x: x * w, x, use_reentrant=False).requires_grad)


@scenario
def functions_that_change_their_mind(lib, see):
    checkpoint = tools(lib).checkpoint
    for sizes in ((2, 3), (2, 2)):
        todo = iter(sizes)

        def f(x, todo=todo):
            return (x[: next(todo)].exp() * 2).sum().sin()

        x = leaf(lib, 0.3, 0.7, 0.1)
        y = checkpoint(f, x, use_reentrant=False)
        if sizes[0] != sizes[1]:
            see.error(y.backward, "different metadata")
        else:
            y.backward()
            see(x.grad)
    steps = iter((1, 3))

    def g(x):
        for _ in range(next(steps)):
            x = x.exp()
        return x

    y = checkpoint(g, leaf(lib, 0.1), use_reentrant=False, early_stop=False)
    see.error(y.backward, "more tensors during recomputation")
    steps = iter((3, 1))
    y = checkpoint(g, leaf(lib, 0.1), use_reentrant=False)
    see.error(y.backward, "different number of tensors")
    see.error(
        lambda: checkpoint(
            lambda x: x, leaf(lib, 0.1), use_reentrant=False, determinism_check="much"
        ),
        "determinism_check",
    )
    todo = iter((2, 3))
    y = checkpoint(
        lambda x: x[: next(todo)].exp().sum(),
        leaf(lib, 0.3, 0.7, 0.1),
        use_reentrant=False,
        determinism_check="none",
    )
    see(y.requires_grad)


@scenario
def early_stop(lib, see):
    checkpoint = tools(lib).checkpoint
    for stop in (True, False):
        ends = []

        def f(x, ends=ends):
            y = x.exp()
            ends.append("saved")
            y = y + 1
            ends.append("end")
            return y

        x = leaf(lib, 0.3)
        checkpoint(f, x, use_reentrant=False, early_stop=stop).backward()
        see(ends.count("end"))
    with tools(lib).set_checkpoint_early_stop(False):
        checkpoint(f, x, use_reentrant=False).backward()
    see(ends.count("end"))


@scenario
def contexts(lib, see):
    import contextlib

    checkpoint = tools(lib).checkpoint
    seen = []

    @contextlib.contextmanager
    def note(name):
        seen.append(name)
        yield

    x = leaf(lib, 0.3)
    y = checkpoint(
        lambda x: x.exp(), x, use_reentrant=False, context_fn=lambda: (note("1"), note("2"))
    )
    see(seen)
    y.backward()
    see(seen)
    see.error(
        lambda: checkpoint(
            lambda x: x, x, use_reentrant=True, context_fn=lambda: (note("1"), note("2"))
        ),
        "use_reentrant=False",
    )


@scenario
def sequential(lib, see):
    nn = lib.nn
    model = nn.Sequential(
        nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2), nn.Sigmoid()
    )
    with lib.no_grad():
        for p in model.parameters():
            p.copy_(lib.arange(float(p.numel())).view(p.shape) * 0.05 - 0.1)
    x = lib.ones(2, 3, requires_grad=True)
    for segments in (1, 2, 3, 6):
        for reentrant in (True, False):
            model.zero_grad()
            x.grad = None
            y = tools(lib).checkpoint_sequential(model, segments, x, use_reentrant=reentrant)
            y.sum().backward()
            see(y, x.grad, [p.grad for p in model.parameters()])
    see.error(
        lambda: tools(lib).checkpoint_sequential(model, 2, x, use_reentrant=False, other=1),
        "Unexpected keyword",
    )


@scenario
def custom_functions_inside(lib, see):
    checkpoint = tools(lib).checkpoint

    class Square(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return 2 * x * g

    x = leaf(lib, 0.3, 0.7)
    checkpoint(lambda x: Square.apply(x.exp()), x, use_reentrant=False).sum().backward()
    see(x.grad)


@scenario
def arguments_changed_in_place(lib, see):
    checkpoint = tools(lib).checkpoint
    x = leaf(lib, 0.3, 0.7)
    y = x * 1
    z = checkpoint(lambda y: y.exp(), y, use_reentrant=False)
    y.mul_(2)
    see.error(lambda: z.sum().backward(), "modified by an inplace")
