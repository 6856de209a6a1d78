"""no_grad, enable_grad, set_grad_enabled, inference_mode in all their forms."""

from __future__ import annotations

from typing import Any

from tests.tensorlib.autograd.scenario import Table

scenario = Table()


def leaf(lib: Any, *values: float) -> Any:
    return lib.tensor(list(values), requires_grad=True)


@scenario
def contexts_nest_and_restore(lib, see):
    x = leaf(lib, 1.0)
    with lib.no_grad():
        see((x * 2).requires_grad, lib.is_grad_enabled())
        with lib.enable_grad():
            see((x * 2).requires_grad)
            with lib.set_grad_enabled(False):
                see((x * 2).requires_grad)
            see((x * 2).requires_grad)
        see(lib.is_grad_enabled())
    see(lib.is_grad_enabled())
    see.error(lambda: enter_and_fail(lib))
    see(lib.is_grad_enabled())


def enter_and_fail(lib):
    with lib.no_grad():
        raise KeyError("x")


@scenario
def set_grad_enabled_as_a_function(lib, see):
    x = leaf(lib, 1.0)
    lib.set_grad_enabled(False)
    see((x * 2).requires_grad)
    lib.set_grad_enabled(True)
    see((x * 2).requires_grad)
    with lib.no_grad():
        lib.set_grad_enabled(True)
        see((x * 2).requires_grad)
    see(lib.is_grad_enabled())
    guard = lib.set_grad_enabled(False)
    with guard:
        see(lib.is_grad_enabled())
    see(lib.is_grad_enabled())


@scenario
def decorators(lib, see):
    x = leaf(lib, 1.0)

    @lib.no_grad()
    def a(y, *, k=1):
        """text"""
        return y * k

    @lib.no_grad
    def b(y):
        return y * 2

    @lib.enable_grad()
    def c(y):
        return y * 2

    @lib.set_grad_enabled(False)
    def d(y):
        return y * 2

    @lib.inference_mode()
    def e(y):
        return y * 2

    @lib.inference_mode
    def f(y):
        return y * 2

    see(lib.is_grad_enabled())
    see(a(x, k=3), b(x), c(x), d(x), e(x), f(x), a.__name__, a.__doc__)
    with lib.no_grad():
        see(c(x), d(x))
    see(lib.is_grad_enabled())


@scenario
def generators(lib, see):
    x = leaf(lib, 1.0)

    @lib.no_grad()
    def numbers():
        got = yield x * 2
        see(got, lib.is_grad_enabled())
        try:
            yield x * 3
        except ValueError:
            see("caught", lib.is_grad_enabled())
            yield x * 4
        return "end"

    gen = numbers()
    see(next(gen), lib.is_grad_enabled())
    see(gen.send("hello"), lib.is_grad_enabled())
    see(gen.throw(ValueError("x")), lib.is_grad_enabled())
    try:
        next(gen)
    except StopIteration as stop:
        see(stop.value)
    see([v.requires_grad for v in once(lib, x)()])


def once(lib, x):
    @lib.no_grad()
    def gen():
        yield x * 2
        with lib.enable_grad():
            yield x * 3
        yield x * 4

    return gen


@scenario
def generators_under_enable_grad(lib, see):
    x = leaf(lib, 1.0)

    @lib.enable_grad()
    def gen():
        yield x * 2
        yield x * 3

    with lib.no_grad():
        for v in gen():
            see(v.requires_grad, (v * 2).requires_grad)


@scenario
def methods_and_classes(lib, see):
    x = leaf(lib, 1.0)

    class Model:
        @lib.no_grad()
        def f(self, y):
            return y * 2

        @classmethod
        @lib.no_grad()
        def g(cls, y):
            return y * 2

        @staticmethod
        @lib.no_grad()
        def h(y):
            return y * 2

    see(Model().f(x), Model.g(x), Model.h(x))

    @lib.no_grad()
    class Whole:
        def __init__(self, y):
            self.y = y * 2

    see(Whole(x).y)


@scenario
def one_object_used_again(lib, see):
    guard = lib.no_grad()
    with guard:
        see(lib.is_grad_enabled())
    with guard:
        see(lib.is_grad_enabled())
    see(lib.is_grad_enabled())


@scenario
def inference_tensors(lib, see):
    x = leaf(lib, 1.0, 2.0)
    n = lib.ones(2)
    with lib.inference_mode():
        see(lib.is_inference_mode_enabled(), lib.is_grad_enabled())
        y = x * 2
        z = lib.ones(2)
        v = n.view(2)
        y.add_(1)
        n.add_(1)
        see(y.is_inference(), z.is_inference(), v.is_inference(), n.is_inference())
        see(y.view(2).is_inference(), y.detach().is_inference(), y[0].is_inference())
        see(lib.is_inference(y), y.clone().is_inference(), x.is_inference())
        see(lib.ones(2, requires_grad=True).requires_grad)
        with lib.inference_mode(False):
            see(lib.ones(2).is_inference(), lib.is_grad_enabled(), (x * 2).requires_grad)
        with lib.enable_grad():
            see((x * 2).requires_grad, lib.is_grad_enabled(), lib.is_inference_mode_enabled())
    see(lib.is_inference_mode_enabled())
    see(y.is_inference(), n._version, v.is_inference())
    see.error(lambda: y._version, "do not track version counter")
    see.error(lambda: y.add_(1), "Inplace update to inference tensor outside InferenceMode")
    see.error(lambda: y.zero_(), "Inplace update to inference tensor")
    see.error(lambda: y.__setitem__(0, 1.0), "Inplace update to inference tensor")
    see.error(lambda: y.requires_grad_(), "Setting requires_grad=True on inference tensor")
    see.error(lambda: y * x, "Inference tensors cannot be saved for backward")
    see.error(lambda: x * y, "Inference tensors cannot be saved for backward")
    see.error(lambda: lib.dot(x, y), "Inference tensors cannot be saved for backward")
    see((x + y).requires_grad)
    w = y.clone()
    see(w.is_inference(), (w * x).requires_grad)
    see((y * 2).is_inference(), y.view(2).is_inference(), (y + 1).requires_grad)
    with lib.inference_mode():
        y.add_(1)
    c = y.clone().requires_grad_()
    see(c.is_leaf)


@scenario
def inference_mode_and_views(lib, see):
    x = leaf(lib, 1.0, 2.0)
    base = x * 2
    with lib.inference_mode():
        v = base.view(2)
        see(v.is_inference(), v.requires_grad)
    see.error(lambda: v.mul_(x), "inference mode")
    n = lib.ones(2)
    with lib.inference_mode():
        w = n.view(2)
    w.add_(1)
    see(n, n._version)


@scenario
def inference_mode_of_modules(lib, see):
    m = lib.nn.Linear(2, 3)
    x = lib.ones(1, 2)
    with lib.inference_mode():
        y = m(x)
    see(y.requires_grad, y.is_inference(), y.shape == (1, 3))
    z = m(x)
    see(z.requires_grad, z.is_inference())
    with lib.inference_mode():
        m2 = lib.nn.Linear(2, 3)
    see(m2.weight.is_inference(), m2.weight.requires_grad)
    see.error(lambda: m2(x), "Inference tensors cannot be saved for backward")


@scenario
def inference_and_backward(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = (x * x).sum()
    with lib.inference_mode():
        see.error(lambda: (x * 2).sum().backward(), "does not require grad")
        y.backward()
    see(x.grad, x.grad.is_inference())


@scenario
def threads_have_their_own_mode(lib, see):
    import threading

    found = []
    with lib.no_grad():
        t = threading.Thread(target=lambda: found.append(lib.is_grad_enabled()))
        t.start()
        t.join()
    see(found)


@scenario
def factory_functions_ignore_no_grad(lib, see):
    with lib.no_grad():
        x = lib.ones(2, requires_grad=True)
        p = lib.nn.Parameter(lib.ones(2))
        see(x.requires_grad, p.requires_grad, lib.tensor([1.0], requires_grad=True).requires_grad)
        y = x.clone().requires_grad_()
        see(y.requires_grad, y.is_leaf)


@scenario
def backward_inside_no_grad(lib, see):
    x = leaf(lib, 1.0, 2.0)
    y = (x * x).sum()
    with lib.no_grad():
        y.backward()
    see(x.grad)
    z = (x**3).sum()
    with lib.no_grad():
        (g,) = lib.autograd.grad(z, x, create_graph=True)
        see(g.requires_grad)
    see(lib.autograd.grad(g.sum(), x))


@scenario
def multithreading_switch(lib, see):
    with lib.autograd.set_multithreading_enabled(False):
        x = leaf(lib, 1.0)
        x.sum().backward()
    see(x.grad)
    see(repr(lib.set_grad_enabled(True)).partition("(")[2])
