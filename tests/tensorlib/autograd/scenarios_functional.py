"""autograd.functional, func and gradcheck."""

from __future__ import annotations

from typing import Any

from tests.tensorlib.autograd.scenario import Table

scenario = Table()


def numbers(lib: Any, *shape: int) -> Any:
    count = 1
    for n in shape:
        count *= n
    return (lib.arange(float(count), dtype=lib.float64) * 0.37 - 0.5).sin().view(*shape)


def mapping(lib):
    """From two tensors to two."""
    return lambda x, y: ((x * y).sum(0).exp(), (x - y**2).sin())


@scenario
def vjp(lib, see):
    f = lib.autograd.functional
    x, y = numbers(lib, 2, 3), numbers(lib, 3)
    v = (numbers(lib, 3) + 1, numbers(lib, 2, 3) - 1)
    see(f.vjp(mapping(lib), (x, y), v))
    see(f.vjp(lambda x: x.exp(), x, x * 2))
    see(f.vjp(lambda x: x.exp().sum(), x))
    see(f.vjp(lambda x, y: x.sum(), (x, y)))
    see.error(lambda: f.vjp(lambda x: x.exp(), x), "v can only be None")
    see.error(lambda: f.vjp(lambda x: x.exp(), x, y), "invalid size")
    see.error(lambda: f.vjp(lambda x: x.exp(), x, (x, x)))
    see.error(lambda: f.vjp(lambda x: 3, x, x))
    see.error(lambda: f.vjp(lambda x: x, [x], x))
    see.error(lambda: f.vjp(lambda x, y: x.sum(), (x, y), strict=True), "strict mode")
    see.error(lambda: f.vjp(lambda x: x.detach().sum(), x, strict=True), "strict mode")


@scenario
def vjp_that_is_differentiated(lib, see):
    f = lib.autograd.functional
    x = numbers(lib, 3).requires_grad_()
    v = numbers(lib, 3)
    out, found = f.vjp(lambda x: x**3, x, v, create_graph=True)
    see(out, found)
    see(lib.autograd.grad(found.sum(), x))
    out, found = f.vjp(lambda x: x**3, x, v)
    see(out, found)


@scenario
def jvp(lib, see):
    f = lib.autograd.functional
    x, y = numbers(lib, 2, 3), numbers(lib, 3)
    see(f.jvp(mapping(lib), (x, y), (x + 1, y - 2)))
    see(f.jvp(lambda x: x.exp(), x, x * 2))
    see(f.jvp(lambda x: x.exp(), numbers(lib, 1)))
    see(f.jvp(lambda x, y: x.sum() * 1, (x, y), (x, y)))
    see.error(lambda: f.jvp(lambda x: x.exp(), x), "v can only be None")
    z = numbers(lib, 3).requires_grad_()
    out, found = f.jvp(lambda x: x**3, z, y, create_graph=True)
    see(out, found, lib.autograd.grad(found.sum(), z))


@scenario
def jacobian(lib, see):
    f = lib.autograd.functional
    x, y = numbers(lib, 2, 3), numbers(lib, 3)
    see(f.jacobian(mapping(lib), (x, y)))
    see(f.jacobian(lambda x: x.exp().sum(1), x))
    see(f.jacobian(lambda x: x.sum(), x))
    see(f.jacobian(lambda x: (x.sum(), x[0]), x))
    see(f.jacobian(lambda x, y: x.sum(), (x, y)))
    see(f.jacobian(mapping(lib), (x, y), vectorize=True))
    see(f.jacobian(lambda x: x.exp().sum(1), x, vectorize=True, strategy="forward-mode"))
    see.error(lambda: f.jacobian(lambda x, y: x.sum(), (x, y), strict=True), "strict mode")
    see.error(lambda: f.jacobian(lambda x: x.exp(), x, strict=True, vectorize=True))
    see.error(lambda: f.jacobian(lambda x: x.exp(), x, strategy="forward-mode"))
    z = numbers(lib, 3).requires_grad_()
    found = f.jacobian(lambda x: x**3, z, create_graph=True)
    see(found, lib.autograd.grad(found.sum(), z))
    see(f.jacobian(lambda x: x**3, z))


@scenario
def hessian(lib, see):
    f = lib.autograd.functional
    x, y = numbers(lib, 2, 2), numbers(lib, 2)
    see(f.hessian(lambda x: (x**3).sum(), x))
    see(f.hessian(lambda x, y: (x.exp() * y).sum(), (x, y)))
    see(f.hessian(lambda x, y: (x.exp() * y).sum(), (x, y), vectorize=True))
    see(f.hessian(lambda x: x.sum(), x))
    see.error(lambda: f.hessian(lambda x: x, x), "single element")
    see.error(lambda: f.hessian(lambda x: (x.sum(), x.sum()), x), "single Tensor")
    see.error(lambda: f.hessian(lambda x: x.sum(), x, strict=True), "strict mode")
    z = numbers(lib, 2).requires_grad_()
    found = f.hessian(lambda x: (x**4).sum(), z, create_graph=True)
    see(found, lib.autograd.grad(found.sum(), z))


@scenario
def products_with_hessians(lib, see):
    f = lib.autograd.functional
    x, y = numbers(lib, 2, 2), numbers(lib, 2)

    def g(x, y):
        return (x.exp() * y**2).sum()

    for product in (f.vhp, f.hvp):
        see(product(g, (x, y), (x + 1, y - 1)))
        see(product(lambda x: (x**3).sum(), x, x * 2))
        see(product(lambda x: (x**3).sum(), numbers(lib, 1)))
        see(product(lambda x, y: (x**3).sum(), (x, y), (x, y)))
        see.error(lambda p=product: p(lambda x: x, x, x), "single element")
        see.error(lambda p=product: p(lambda x: x.sum(), x), "v can only be None")
        z = numbers(lib, 2).requires_grad_()
        out, found = product(lambda x: (x**4).sum(), z, y, create_graph=True)
        see(out, found, lib.autograd.grad(found.sum(), z))


@scenario
def func_grad(lib, see):
    func = lib.func
    x, y = numbers(lib, 3), numbers(lib, 3) + 1
    see(func.grad(lambda x: (x**3).sum())(x))
    see(func.grad(lambda x, y: (x * y).sum(), argnums=1)(x, y))
    see(func.grad(lambda x, y: (x * y.exp()).sum(), argnums=(0, 1))(x, y))
    see(func.grad(lambda x: ((x**2).sum(), {"aux": x * 2}), has_aux=True)(x))
    see(func.grad_and_value(lambda x: (x**2).sum())(x))
    see(func.grad_and_value(lambda x: ((x**2).sum(), x + 1), has_aux=True)(x))
    see(func.grad(lambda p: (p["w"] * p["b"][0]).sum())({"w": x, "b": [y]}))
    see(func.grad(func.grad(lambda x: x**4))(lib.tensor(2.0)))
    see(func.grad(func.grad(func.grad(lambda x: x.sin())))(lib.tensor(0.3)))
    see.error(lambda: func.grad(lambda x: x * 2)(x), "scalar tensor")
    see.error(lambda: func.grad(lambda x: 3)(x))
    see.error(lambda: func.grad(lambda x: x.sum(), argnums=2)(x))
    see.error(lambda: func.grad(lambda x: x.sum())(3.0))
    w = numbers(lib, 3).requires_grad_()
    found = func.grad(lambda x: (x * w**2).sum())(x)
    see(found.requires_grad)
    found.sum().backward()
    see(w.grad)
    see(func.grad(lambda x: (x * w.detach()).sum())(x).requires_grad)
    z = numbers(lib, 3).requires_grad_()
    found = func.grad(lambda x: (x**3).sum())(z)
    see(found, lib.autograd.grad(found.sum(), z))


@scenario
def func_products(lib, see):
    func = lib.func
    x, y = numbers(lib, 3), numbers(lib, 3) + 1
    out, pull = func.vjp(lambda x, y: (x * y, x.sum()), x, y)
    see(out, pull((y, lib.tensor(2.0, dtype=lib.float64))))
    see(pull((y * 0, lib.tensor(1.0, dtype=lib.float64))))
    out, pull = func.vjp(lambda x: x.exp(), x)
    see(out, pull(y))
    out, pull, aux = func.vjp(lambda x: (x.exp(), x * 2), x, has_aux=True)
    see(out, pull(y), aux)
    see(func.jvp(lambda x: x.exp(), (x,), (y,)))
    see(func.jvp(lambda x, y: (x * y, x.sum()), (x, y), (y, x)))
    see(func.jvp(lambda x: (x.exp(), x * 2), (x,), (y,), has_aux=True))
    see(func.grad(lambda x: func.jvp(lambda x: x**3, (x,), (y,))[1].sum())(x))
    see.error(lambda: func.jvp(lambda x: x, x, x))


@scenario
def func_jacobians(lib, see):
    func = lib.func
    x, y = numbers(lib, 2), numbers(lib, 3)
    see(func.jacrev(lambda x: x.exp())(x))
    see(func.jacrev(lambda x, y: x[:, None] * y, argnums=1)(x, y))
    see(func.jacrev(lambda x, y: x[:, None] * y, argnums=(0, 1))(x, y))
    see(func.jacrev(lambda x: (x.exp(), x.sum()))(x))
    see(func.jacrev(lambda x: (x.exp(), x * 3), has_aux=True)(x))
    see(func.jacfwd(lambda x: x.exp())(x))
    see(func.jacfwd(lambda x, y: x[:, None] * y, argnums=(0, 1))(x, y))
    see(func.hessian(lambda x: (x**3).sum())(x))
    see(func.jacrev(func.jacrev(lambda x: (x**3).sum()))(x))
    see(func.jacfwd(func.jacrev(lambda x: x.sin()))(x))


@scenario
def vmap(lib, see):
    func = lib.func
    x, y = numbers(lib, 3, 2), numbers(lib, 2)
    see(func.vmap(lambda x: x.exp())(x), func.vmap(lib.dot, in_dims=(0, None))(x, y))
    see(func.vmap(lambda x: x.sum(), in_dims=1)(x), func.vmap(lambda x: x * 2, 1, 1)(x))
    see(func.vmap(lambda x, k: (x * k, x.sum()), in_dims=(0, None))(x, 3.0))
    see(
        func.vmap(lambda d: {"a": d["w"] * d["b"]}, in_dims=({"w": 0, "b": None},))(
            {"w": x, "b": y}
        )
    )
    see(func.vmap(lambda x: (x, x * 2), out_dims=(0, 1))(x))
    see(func.vmap(func.vmap(lambda x: x.sin()))(x), lib.vmap(lambda x: x + 1)(x))
    see(func.vmap(func.grad(lambda x: (x**3).sum()))(x))
    see(func.vmap(func.grad(lambda w, x: (w * x).sin().sum()), in_dims=(None, 0))(y, x))
    see(func.jacrev(func.vmap(lambda x: x.sum() ** 2))(x))
    z = numbers(lib, 3, 2).requires_grad_()
    func.vmap(lambda x: (x**2).sum())(z).sum().backward()
    see(z.grad)
    see(func.vmap(lambda x: x * 1, chunk_size=2)(x))
    see.error(lambda: func.vmap(lambda: y)())
    see.error(lambda: func.vmap(lambda x: x, in_dims=2)(x))
    see.error(lambda: func.vmap(lambda x: x, in_dims=(0, 0))(x), "not compatible")
    see.error(lambda: func.vmap(lambda x, y: x, in_dims=(None, None))(x, y))
    see.error(lambda: func.vmap(lambda x, y: x * y)(x, y), "same size in the mapped dimension")
    see.error(lambda: func.vmap(lambda x: 3)(x), "must only return Tensors")
    see.error(lambda: func.vmap(lambda x: x)(3.0))
    see.error(lambda: func.vmap(lambda x: lib.rand(2))(x), "randomness error mode")
    see.error(lambda: func.vmap(lambda x: x, randomness="no")(x))
    same = func.vmap(lambda x: x * 0 + lib.rand(2, dtype=lib.float64), randomness="same")(x)
    see((same == same[0]).all())
    other = func.vmap(lambda x: x * 0 + lib.rand(2), randomness="different")(x)
    see((other == other[0]).all())


@scenario
def linearize_and_stacked_modules(lib, see):
    func = lib.func
    x, y = numbers(lib, 3), numbers(lib, 3) + 1
    out, push = func.linearize(lambda x: x.sin() * x, x)
    see(out, push(y), push(y * 2))
    models = [lib.nn.Linear(2, 3) for _ in range(2)]
    with lib.no_grad():
        for i, m in enumerate(models):
            m.weight.fill_(i + 1.0)
            m.bias.fill_(0.5)
    params, buffers = func.stack_module_state(models)
    see(params, buffers)
    data = lib.ones(4, 2)

    def run(params, buffers, data):
        return func.functional_call(models[0], (params, buffers), (data,))

    see(func.vmap(run, in_dims=(0, 0, None))(params, buffers, data))
    see.error(lambda: func.stack_module_state([]))
    see.error(lambda: func.stack_module_state([models[0], lib.nn.ReLU()]))


@scenario
def gradcheck(lib, see):
    check = lib.autograd.gradcheck
    x = numbers(lib, 3).requires_grad_()
    y = (numbers(lib, 3) + 2).requires_grad_()
    see(check(lambda x, y: x * y.log(), (x, y)), check(lambda x: x.exp(), x))
    see(check(lambda x: (x.sin(), x.sum()), (x,)))
    see(check(lambda x, k: x * k, (x, 3.0)))
    see(check(lambda x, y: x * y, (x, y), fast_mode=True))

    class Wrong(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 3

    see.error(lambda: check(Wrong.apply, (x,)), "Jacobian mismatch for output 0 with respect to")
    see.error(lambda: check(Wrong.apply, (x,), fast_mode=True), "Jacobian mismatch")
    see(check(Wrong.apply, (x,), raise_exception=False))
    see(check(Wrong.apply, (x,), atol=10.0))
    see.error(lambda: check(lambda x: x * 2, (lib.ones(2),)), "requires_grad")
    see(check(lambda x: lib.tensor([3.0], dtype=lib.float64), (x,), raise_exception=False))
    z = lib.tensor([1 + 2j, 0.5 - 1j], dtype=lib.complex128, requires_grad=True)
    see(check(lambda z: z * z.conj() * (1 + 2j), (z,)), check(lambda z: z.abs(), (z,)))
    see(check(lambda z: (z.exp(), z.real), (z,)), check(lambda z: z.sin(), (z,), fast_mode=True))
    see(check(lambda x: lib.complex(x, x * 2), (x,)))
    see(check(lambda x: x.sum() * 0 + 1, (x,)))


@scenario
def gradgradcheck(lib, see):
    check = lib.autograd.gradgradcheck
    x = numbers(lib, 3).requires_grad_()
    y = (numbers(lib, 3) + 2).requires_grad_()
    see(check(lambda x, y: x.exp() * y, (x, y)), check(lambda x: x.sin(), x))
    see(check(lambda x: x.sin(), (x,), numbers(lib, 3).requires_grad_()))
    see(check(lambda x: x.sin(), (x,), gen_non_contig_grad_outputs=True))
    see(check(lambda x, y: (x * y).tanh(), (x, y), fast_mode=True))

    class Wrong(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * 2 * x.detach()

    see.error(lambda: check(Wrong.apply, (x,)))
    see(check(Wrong.apply, (x,), raise_exception=False))
    z = lib.tensor([1 + 2j, 0.5 - 1j], dtype=lib.complex128, requires_grad=True)
    see(check(lambda z: z * z * z.conj(), (z,)))


@scenario
def gradcheck_of_functions_that_repeat_badly(lib, see):
    check = lib.autograd.gradcheck
    count = [0]

    class Noisy(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            count[0] += 1
            return g * (2 + count[0] * 1e-4)

    x = numbers(lib, 2).requires_grad_()
    see.error(lambda: check(Noisy.apply, (x,), atol=1.0), "not reentrant")
    see(check(Noisy.apply, (x,), atol=1.0, nondet_tol=1e-2))


@scenario
def gradcheck_of_undefined_gradients(lib, see):
    check = lib.autograd.gradcheck

    class NoNone(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, a, b):
            return a * 2 + b * 3

    x = numbers(lib, 2).requires_grad_()
    see.error(lambda: check(NoNone.apply, (x,)))
    see(check(lambda x: (x * 2, x * 3), (x,), check_undefined_grad=True))
