"""`Tensor`: an array, its gradient and its place on the tape. Its methods are aliases of the
operations in `ops`; the file is as long as the table of them.

NumPy's floating-point warnings are switched off in threads that compute with tensors: as in
PyTorch, infinities and NaN
are values, not events.
"""

from __future__ import annotations

import builtins
from typing import Any, TypeAlias

import numpy as np

from tensorlib import copying, dtypes, interop, printing, typed
from tensorlib.autograd import attributes, engine, tape
from tensorlib.autograd.tape import INFERENCE, wrap
from tensorlib.device import device as device_type
from tensorlib.device import device_of
from tensorlib.errors import (
    ArgumentError,
    AutogradError,
    ShapeError,
)
from tensorlib.ops import (
    activation,
    bessel,
    contraction,
    converting,
    cumulative,
    decomposition,
    draws,
    elementwise,
    exporting,
    extremes,
    householder,
    indexing,
    integration,
    linalg,
    matrix_functions,
    pseudoinverse,
    queries,
    reduction,
    removed,
    sampling,
    solver,
    sorting,
    special,
    spectrogram,
    statistics,
)
from tensorlib.ops import inplace as in_place
from tensorlib.ops import lu as triangular
from tensorlib.ops import norm as norms
from tensorlib.ops import shape as shapes
from tensorlib.ops.inplace import inplace as _inplace
from tensorlib.ops.names import takes_numpy_names, with_dim
from tensorlib.ops.out import direct
from tensorlib.size import Size, size_of_shape
from tensorlib.utils import dlpack

# The class has methods of these names.
_bool: TypeAlias = builtins.bool
_int: TypeAlias = builtins.int
_float: TypeAlias = builtins.float
_complex: TypeAlias = builtins.complex


def _as_class(tensor: Tensor, kind: Any) -> Any:
    made = object.__new__(kind)
    for name in ("array", "_requires_grad", "_node", "_grad", "_base", "_counter", "_extra"):
        setattr(made, name, getattr(tensor, name))
    if tensor._base is not None:
        made._seen, made._made = tensor._seen, tensor._made
    return made


class Tensor:
    """An n-dimensional array with PyTorch's methods. Make one with `tensorlib.tensor(data)`;
    `Tensor(2, 3)` is uninitialised.
    """

    __module__ = "tensorlib"
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_base",
        "_counter",
        "_extra",
        "_grad",
        "_made",
        "_node",
        "_requires_grad",
        "_seen",
        "array",
    )
    __array_priority__ = 1000

    array: Any
    _requires_grad: _bool
    _node: Any
    _grad: Tensor | None
    _base: Tensor | None
    _counter: list[Any]
    _seen: _int
    _made: _int
    _extra: dict[str, Any] | None

    def __new__(cls, *data: Any, device: Any = None) -> Tensor:
        made = typed.construct(data, dtypes.get_default_dtype(), device)
        return made if cls is Tensor else _as_class(made, cls)

    @classmethod
    def _wrap(cls, array: Any, requires_grad: _bool = False) -> Tensor:
        """A Tensor (or subclass) around `array` without copy; fast, for internal use."""
        result = wrap(array)
        result._requires_grad = requires_grad
        return result if cls is Tensor else _as_class(result, cls)

    def _sync(self) -> _bool:
        """Bring a view's history up to date after its memory was changed through another tensor;
        returns whether gradients flow to it.
        """
        return tape.sync_view(self)

    # -- what it is --------------------------------------------------------------------------------

    @property
    def shape(self) -> Size:
        """Sizes of the dimensions."""
        return size_of_shape(self.array.shape)

    @property
    def dtype(self) -> dtypes.dtype:
        """Element type."""
        return dtypes.of(self.array.dtype)

    @property
    def device(self) -> device_type:
        """Where the array lives."""
        return device_of(self.array)

    @property
    def ndim(self) -> _int:
        """Number of dimensions."""
        return self.array.ndim  # type: ignore[no-any-return]  # arrays of any backend

    @property
    def itemsize(self) -> _int:
        """Bytes per element."""
        return self.array.itemsize  # type: ignore[no-any-return]

    @property
    def nbytes(self) -> _int:
        """Bytes of all elements."""
        return self.array.nbytes  # type: ignore[no-any-return]

    @property
    def _version(self) -> _int:
        if self._counter is INFERENCE:
            raise AutogradError("_version", "Inference tensors do not track version counter")
        return self._counter[0]  # type: ignore[no-any-return]

    @property
    def output_nr(self) -> _int:
        """Which output of `grad_fn` it is."""
        node = self._node
        return node.index if type(node) is tape.Output else 0

    def _is_view(self) -> _bool:
        return self._base is not None

    @property
    def is_cuda(self) -> _bool:
        """Whether it lives on a GPU."""
        return self.device.type == "cuda"

    @property
    def is_cpu(self) -> _bool:
        """Whether it lives on the CPU."""
        return self.device.type == "cpu"

    @property
    def is_leaf(self) -> _bool:
        """Whether no operation made it (its gradient is kept in `.grad`)."""
        if self._base is not None:
            self._sync()
        return self._node is None

    @property
    def layout(self) -> dtypes.layout:
        """Always strided."""
        return dtypes.strided

    @property
    def requires_grad(self) -> _bool:
        """Whether gradients flow to it."""
        base = self._base
        return self._requires_grad or (base is not None and base._requires_grad)

    @requires_grad.setter
    def requires_grad(self, value: _bool) -> None:
        if not isinstance(value, _bool):
            raise AutogradError("requires_grad", f"must be a bool, not {type(value).__name__}")
        self.requires_grad_(value)

    @property
    def grad(self) -> Tensor | None:
        """The gradient that backward accumulated."""
        if self._grad is None and self._node is not None:
            attributes.warn_of_no_grad(self)
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        attributes.set_grad(self, value)

    @grad.deleter
    def grad(self) -> None:
        self._grad = None

    @property
    def grad_fn(self) -> Any:
        """The node that made it, None for a leaf."""
        if self._base is not None:
            self._sync()
        node = self._node
        return node if node is None else node.public

    @property
    def data(self) -> Tensor:
        """The same memory without history; changes through it are not tracked."""
        result = shapes.unrecorded(self, self.array)
        result._counter = [0]
        return result

    @data.setter
    def data(self, value: Tensor) -> None:
        attributes.set_data(self, value)

    def detach(self) -> Tensor:
        """The same memory without history."""
        return shapes.unrecorded(self, self.array)

    requires_grad_, detach_ = attributes.requires_grad_, attributes.detach_
    _hooks = attributes.hooks
    register_hook, retain_grad = attributes.register_hook, attributes.retain_grad
    register_post_accumulate_grad_hook = attributes.register_post_accumulate_grad_hook

    # -- autograd ----------------------------------------------------------------------------------

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: _bool | None = None,
        create_graph: _bool = False,
        inputs: Any = None,
    ) -> None:
        """Add the gradients of this tensor to `.grad` of the leaves it was computed from."""
        engine.backward(self, gradient, retain_graph, create_graph, inputs=inputs)

    @property
    def retains_grad(self) -> _bool:
        """Whether `retain_grad` was called on this non-leaf tensor."""
        return _bool(self._extra and self._extra.get("retained"))

    # -- leaving tensorlib -------------------------------------------------------------------------

    numpy, item, tolist = exporting.numpy, exporting.item, exporting.tolist
    __array__, __array_wrap__ = exporting.array, exporting.array_wrap
    __bool__, __int__, __float__ = exporting.truth, exporting.integer, exporting.real
    __complex__, __index__ = exporting.complex_number, exporting.index
    __len__, __iter__ = exporting.length, exporting.iterator
    __reversed__, __contains__ = exporting.reversed_, exporting.contains
    __nonzero__, __long__ = __bool__, __int__
    __dlpack__, __dlpack_device__ = dlpack.exported, dlpack.exported_device

    def as_subclass(self, cls: Any) -> Any:
        """The same memory and history as a tensor of a subclass."""
        return _as_class(shapes.alias(self), cls)

    def __delitem__(self, index: Any) -> None:
        raise ArgumentError("del", "Tensor does not support deleting items")

    def __hash__(self) -> _int:
        return id(self)

    def __repr__(self) -> str:
        return printing.text(self)

    def __format__(self, spec: str) -> str:
        if self.array.ndim == 0 and type(self) is Tensor:
            return self.array.item().__format__(spec)  # type: ignore[no-any-return]
        return object.__format__(self, spec)

    __reduce_ex__, __deepcopy__ = copying.reduce, copying.deepcopy

    def type(self, dtype: Any = None, non_blocking: _bool = False) -> Any:
        """The name of its type (`tensorlib.FloatTensor`), or `to(dtype)`, also by such a name."""
        if dtype is None:
            return typed.type_name(self.dtype)
        return elementwise.cast(self, typed.type_of(dtype))

    # -- new tensors of the same type --------------------------------------------------------------

    new_tensor, new_zeros, new_ones = typed.new_tensor, typed.new_zeros, typed.new_ones
    new_empty, new_empty_strided = typed.new_empty, typed.new_empty_strided
    new_full, new = typed.new_full, typed.new

    # -- in place, special -------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Tensor:
        return indexing.getitem(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        indexing.setitem(self, index, value)

    # -- aliases of operations ---------------------------------------------------------------------
    # fmt: off

    copy_, fill_, zero_ = in_place.copy_, in_place.fill_, in_place.zero_
    to, type_as, cpu, cuda = converting.to, converting.type_as, converting.cpu, converting.cuda
    float, double = converting.converter("float32"), converting.converter("float64")
    half, bfloat16 = converting.converter("float16"), converting.converter("bfloat16")
    long, int = converting.converter("int64"), converting.converter("int32")
    short, char = converting.converter("int16"), converting.converter("int8")
    byte, bool = converting.converter("uint8"), converting.converter("bool")
    cfloat = converting.converter("complex64")
    cdouble = converting.converter("complex128")

    size, stride, numel, dim = queries.size, queries.stride, queries.numel, queries.dim
    ndimension, nelement, element_size = dim, numel, queries.element_size
    storage_offset, data_ptr = queries.storage_offset, queries.data_ptr
    const_data_ptr = data_ptr
    untyped_storage, storage = queries.untyped_storage, queries.storage
    dim_order, is_contiguous = queries.dim_order, queries.is_contiguous
    is_floating_point, is_complex = queries.is_floating_point, queries.is_complex
    is_signed, is_inference = queries.is_signed, queries.is_inference
    is_distributed = queries.is_distributed
    is_pinned, is_shared, _is_view = queries.is_pinned, queries.is_shared, queries.is_view
    get_device, share_memory_ = queries.get_device, queries.share_memory_
    dense_dim, sparse_dim = queries.dense_dim, queries.sparse_dim
    pin_memory = to_dense = queries.itself
    is_meta = is_quantized = is_mkldnn = is_nested = is_mps = is_xla = is_vulkan = False
    is_sparse = is_sparse_csr = is_xpu = is_ipu = is_hpu = is_maia = is_mtia = False
    name, _backward_hooks = None, None

    fill_diagonal_, apply_ = in_place.fill_diagonal_, in_place.apply_
    map_, map2_ = in_place.map_, in_place.map2_

    uniform_, normal_, exponential_ = draws.uniform_, draws.normal_, draws.exponential_
    cauchy_, log_normal_, geometric_ = draws.cauchy_, draws.log_normal_, draws.geometric_
    random_, bernoulli_ = draws.random_, draws.bernoulli_
    bernoulli, multinomial = direct(sampling.bernoulli), direct(sampling.multinomial)

    add = __add__ = elementwise.add
    __radd__, __rmul__ = elementwise.radd, elementwise.rmul
    sub = subtract = __sub__ = elementwise.sub
    rsub = __rsub__ = elementwise.rsub
    mul = multiply = __mul__ = elementwise.mul
    div = divide = __truediv__ = __div__ = elementwise.div
    true_divide = elementwise.true_divide
    __rtruediv__ = __rdiv__ = elementwise.rdiv
    floor_divide = __floordiv__ = elementwise.floor_divide
    remainder = __mod__ = elementwise.remainder
    fmod = elementwise.fmod
    pow = __pow__ = elementwise.pow
    __rpow__ = elementwise.rpow
    neg = negative = __neg__ = elementwise.neg
    positive = __pos__ = elementwise.positive
    abs = absolute = __abs__ = elementwise.abs
    square = elementwise.square
    lerp = elementwise.lerp
    addcmul, addcdiv = elementwise.addcmul, elementwise.addcdiv
    sign, sgn = elementwise.sign, elementwise.sgn
    exp, exp2, expm1 = elementwise.exp, elementwise.exp2, elementwise.expm1
    log, log2 = elementwise.log, elementwise.log2
    log10, log1p = elementwise.log10, elementwise.log1p
    sqrt, rsqrt, reciprocal = elementwise.sqrt, elementwise.rsqrt, elementwise.reciprocal
    sin, cos, tan = elementwise.sin, elementwise.cos, elementwise.tan
    asin = arcsin = elementwise.asin
    acos = arccos = elementwise.acos
    atan = arctan = elementwise.atan
    sinh, cosh = elementwise.sinh, elementwise.cosh
    asinh = arcsinh = elementwise.asinh
    acosh = arccosh = elementwise.acosh
    atanh = arctanh = elementwise.atanh
    atan2 = arctan2 = elementwise.atan2
    hypot, nextafter = elementwise.hypot, elementwise.nextafter
    deg2rad, rad2deg = elementwise.deg2rad, elementwise.rad2deg
    copysign, ldexp, frexp = elementwise.copysign, elementwise.ldexp, elementwise.frexp
    float_power, gcd, lcm = elementwise.float_power, elementwise.gcd, elementwise.lcm
    floor, ceil = elementwise.floor, elementwise.ceil
    round, frac = elementwise.round, elementwise.frac
    trunc = fix = elementwise.trunc
    clamp = clip = elementwise.clamp
    clamp_min, clamp_max = elementwise.clamp_min, elementwise.clamp_max
    maximum, minimum = elementwise.maximum, elementwise.minimum
    fmax, fmin = elementwise.fmax, elementwise.fmin
    nan_to_num = elementwise.nan_to_num
    eq, ne, lt = elementwise.eq, elementwise.ne, elementwise.lt
    le, gt, ge = elementwise.le, elementwise.gt, elementwise.ge
    less, less_equal, greater, greater_equal, not_equal = lt, le, gt, ge, ne
    __lt__, __le__, __gt__, __ge__ = lt, le, gt, ge
    logical_and, logical_or = elementwise.logical_and, elementwise.logical_or
    logical_xor = elementwise.logical_xor
    logical_not = elementwise.logical_not
    bitwise_and = __and__ = elementwise.bitwise_and
    bitwise_or = __or__ = elementwise.bitwise_or
    bitwise_xor = __xor__ = elementwise.bitwise_xor
    __rand__ = elementwise.reversed_bits(elementwise.bitwise_and)
    __ror__ = elementwise.reversed_bits(elementwise.bitwise_or)
    __rxor__ = elementwise.reversed_bits(elementwise.bitwise_xor)
    __rlshift__ = elementwise.reversed_bits(elementwise.bitwise_left_shift)
    __rrshift__ = elementwise.reversed_bits(elementwise.bitwise_right_shift)
    bitwise_not, __invert__ = elementwise.bitwise_not, elementwise.invert
    bitwise_left_shift = __lshift__ = elementwise.bitwise_left_shift
    bitwise_right_shift = __rshift__ = elementwise.bitwise_right_shift
    isnan, isinf, isfinite = elementwise.isnan, elementwise.isinf, elementwise.isfinite
    isposinf, isneginf, signbit = elementwise.isposinf, elementwise.isneginf, elementwise.signbit
    isreal, is_nonzero = elementwise.isreal, elementwise.is_nonzero
    is_same_size = elementwise.is_same_size
    conj_physical, resolve_conj = elementwise.conj_physical, elementwise.resolve_conj
    resolve_neg, is_conj, is_neg = elementwise.resolve_neg, elementwise.is_conj, elementwise.is_neg
    isclose, allclose, equal = elementwise.isclose, elementwise.allclose, elementwise.equal
    heaviside, conj, angle = elementwise.heaviside, elementwise.conj, elementwise.angle
    real, imag = property(elementwise.real), property(elementwise.imag)

    erf, erfc, erfinv = special.erf, special.erfc, special.erfinv
    lgamma, digamma, sinc, xlogy = special.lgamma, special.digamma, special.sinc, special.xlogy
    logaddexp, logaddexp2 = special.logaddexp, special.logaddexp2
    polygamma, mvlgamma, i0 = special.polygamma_of, special.mvlgamma, bessel.i0
    igamma, igammac = special.igamma, special.igammac
    stft, istft = spectrogram.stft, spectrogram.istft
    cov, corrcoef = integration.cov, integration.corrcoef
    solve, lstsq, eig, symeig = removed.solve, removed.lstsq, removed.eig, removed.symeig

    relu, sigmoid = activation.relu, activation.sigmoid
    tanh, softmax = activation.tanh, activation.softmax
    log_softmax, prelu, logit = activation.log_softmax, activation.prelu, activation.logit
    hardshrink = activation.hardshrink

    sum, mean, prod = reduction.sum, reduction.mean, reduction.prod
    nansum, nanmean = reduction.nansum, reduction.nanmean
    var, std, sum_to_size = reduction.var, reduction.std, reduction.sum_to_size
    all, any, count_nonzero = reduction.all, reduction.any, reduction.count_nonzero
    logsumexp = reduction.logsumexp
    max, min, amax = extremes.max, extremes.min, extremes.amax
    amin, aminmax = extremes.amin, extremes.aminmax
    argmax, argmin = extremes.argmax, extremes.argmin
    cumsum, cumprod = cumulative.cumsum, cumulative.cumprod
    cummax, cummin = cumulative.cummax, cumulative.cummin
    logcumsumexp, diff = cumulative.logcumsumexp, cumulative.diff
    sort, argsort, msort, topk = sorting.sort, sorting.argsort, sorting.msort, sorting.topk
    kthvalue, median, nanmedian = sorting.kthvalue, sorting.median, sorting.nanmedian
    mode, quantile, nanquantile = sorting.mode, statistics.quantile, statistics.nanquantile
    unique, unique_consecutive = sorting.unique, sorting.unique_consecutive
    bincount, histc, histogram = statistics.bincount, statistics.histc, statistics.histogram

    reshape, view, flatten = shapes.reshape, shapes.view, shapes.flatten
    ravel, unflatten = shapes.ravel, shapes.unflatten
    reshape_as, view_as = shapes.reshape_as, shapes.view_as
    squeeze, unsqueeze = shapes.squeeze, shapes.unsqueeze
    transpose, swapaxes, swapdims = shapes.transpose, shapes.swapaxes, shapes.swapdims
    t, permute, adjoint = shapes.t, shapes.permute, shapes.adjoint
    movedim, moveaxis = shapes.movedim, shapes.moveaxis
    expand, expand_as, broadcast_to = shapes.expand, shapes.expand_as, shapes.broadcast_to
    repeat, tile, repeat_interleave = shapes.repeat, shapes.tile, shapes.repeat_interleave
    split, split_with_sizes, chunk = shapes.split, shapes.split_with_sizes, shapes.chunk
    unsafe_split, unsafe_chunk = shapes.unsafe_split, shapes.unsafe_chunk
    unsafe_split_with_sizes = shapes.unsafe_split_with_sizes
    unbind, tensor_split = shapes.unbind, shapes.tensor_split
    hsplit, vsplit, dsplit = shapes.hsplit, shapes.vsplit, shapes.dsplit
    narrow, narrow_copy, select, flip = (
        shapes.narrow, shapes.narrow_copy, shapes.select, shapes.flip
    )
    fliplr, flipud = shapes.fliplr, shapes.flipud
    rot90, roll, diagonal = shapes.rot90, shapes.roll, shapes.diagonal
    diag, diag_embed, diagflat = shapes.diag, shapes.diag_embed, shapes.diagflat
    tril, triu, unfold, as_strided = shapes.tril, shapes.triu, shapes.unfold, shapes.as_strided
    select_scatter, slice_scatter = shapes.select_scatter, shapes.slice_scatter
    diagonal_scatter, as_strided_scatter = shapes.diagonal_scatter, shapes.as_strided_scatter
    clone, contiguous = shapes.clone, shapes.contiguous
    t_, squeeze_, unsqueeze_, transpose_ = (
        shapes.t_, shapes.squeeze_, shapes.unsqueeze_, shapes.transpose_
    )
    swapaxes_, swapdims_, as_strided_ = shapes.swapaxes_, shapes.swapdims_, shapes.as_strided_
    resize_, resize_as_, set_ = shapes.resize_, shapes.resize_as_, shapes.set_
    is_set_to = shapes.is_set_to

    index_select, index_add = indexing.index_select, indexing.index_add
    index_copy, index_reduce = indexing.index_copy, indexing.index_reduce
    index_fill, index_put = indexing.index_fill, indexing.index_put
    take, put = indexing.take, indexing.put
    take_along_dim, gather, scatter = indexing.take_along_dim, indexing.gather, indexing.scatter
    scatter_add, scatter_reduce = indexing.scatter_add, indexing.scatter_reduce
    masked_fill, masked_select = indexing.masked_fill, indexing.masked_select
    masked_scatter = indexing.masked_scatter
    nonzero, argwhere = indexing.nonzero, indexing.argwhere
    nonzero_static = indexing.nonzero_static

    matmul = __matmul__ = linalg.matmul
    mm, bmm, mv = linalg.mm, linalg.bmm, linalg.mv
    dot, vdot, inner = linalg.dot, linalg.vdot, contraction.inner
    outer = ger = linalg.outer
    addmm, addmv, addr = linalg.addmm, linalg.addmv, linalg.addr
    baddbmm, addbmm, kron = linalg.baddbmm, linalg.addbmm, contraction.kron
    cross, trace, norm = linalg.cross, linalg.trace, norms.norm
    dist, renorm = norms.dist, norms.renorm
    inverse, det, logdet = solver.inverse, matrix_functions.det, matrix_functions.logdet
    slogdet = matrix_functions.legacy_slogdet
    matrix_power, matrix_exp = matrix_functions.matrix_power, matrix_functions.matrix_exp
    cholesky, qr, svd = (
        decomposition.legacy_cholesky, decomposition.legacy_qr, decomposition.legacy_svd
    )
    cholesky_solve, cholesky_inverse = solver.cholesky_solve, solver.cholesky_inverse
    triangular_solve, pinverse = solver.triangular_solve, pseudoinverse.pinverse
    geqrf, orgqr, ormqr = householder.geqrf, householder.orgqr, householder.ormqr
    lu, lu_solve = triangular.legacy_lu, triangular.legacy_lu_solve

    add_, sub_ = _inplace(elementwise.add, np.add), _inplace(elementwise.sub, np.subtract)
    mul_, div_ = _inplace(elementwise.mul, np.multiply), _inplace(elementwise.div, np.true_divide)
    subtract_, multiply_, divide_, true_divide_ = sub_, mul_, div_, _inplace(true_divide)
    floor_divide_, remainder_, fmod_ = _inplace(floor_divide), _inplace(remainder), _inplace(fmod)
    pow_, neg_, square_ = _inplace(pow), _inplace(neg), _inplace(square)
    abs_ = _inplace(elementwise.abs_same)
    negative_, absolute_ = neg_, abs_
    float_power_ = _inplace(elementwise.float_power_same)
    copysign_, ldexp_, hypot_ = _inplace(copysign), _inplace(ldexp), _inplace(hypot)
    gcd_, lcm_, nextafter_ = _inplace(gcd), _inplace(lcm), _inplace(nextafter)
    heaviside_, conj_physical_ = _inplace(heaviside), _inplace(conj_physical)
    deg2rad_, rad2deg_ = _inplace(deg2rad), _inplace(rad2deg)
    lerp_, addcmul_, addcdiv_ = _inplace(lerp), _inplace(addcmul), _inplace(addcdiv)
    sign_, exp_, exp2_, expm1_ = _inplace(sign), _inplace(exp), _inplace(exp2), _inplace(expm1)
    sgn_ = _inplace(sgn)
    log_, log2_, log10_, log1p_ = _inplace(log), _inplace(log2), _inplace(log10), _inplace(log1p)
    sqrt_, rsqrt_, reciprocal_ = _inplace(sqrt), _inplace(rsqrt), _inplace(reciprocal)
    sin_, cos_, tan_, asin_, acos_, atan_ = (
        _inplace(sin), _inplace(cos), _inplace(tan), _inplace(asin), _inplace(acos), _inplace(atan)
    )
    arcsin_, arccos_, arctan_ = asin_, acos_, atan_
    asinh_, acosh_, atanh_, atan2_ = (
        _inplace(asinh), _inplace(acosh), _inplace(atanh), _inplace(atan2)
    )
    arcsinh_, arccosh_, arctanh_, arctan2_ = asinh_, acosh_, atanh_, atan2_
    sinh_, cosh_, tanh_ = _inplace(sinh), _inplace(cosh), _inplace(tanh)
    floor_, ceil_, round_, trunc_, frac_ = (
        _inplace(floor), _inplace(ceil), _inplace(round), _inplace(trunc), _inplace(frac)
    )
    fix_ = trunc_
    clamp_, clamp_min_, clamp_max_ = _inplace(clamp), _inplace(clamp_min), _inplace(clamp_max)
    clip_ = clamp_
    nan_to_num_, erf_, erfinv_ = _inplace(nan_to_num), _inplace(erf), _inplace(erfinv)
    erfc_, lgamma_, digamma_ = _inplace(erfc), _inplace(lgamma), _inplace(digamma)
    polygamma_, mvlgamma_, i0_ = _inplace(polygamma), _inplace(mvlgamma), _inplace(i0)
    igamma_, igammac_ = _inplace(igamma), _inplace(igammac)
    sinc_, xlogy_ = _inplace(sinc), _inplace(xlogy)
    relu_, sigmoid_ = activation.relu_, _inplace(sigmoid)
    logit_ = _inplace(logit)
    eq_, ne_, lt_ = _inplace(eq), _inplace(ne), _inplace(lt)
    le_, gt_, ge_ = _inplace(le), _inplace(gt), _inplace(ge)
    less_, less_equal_, greater_, greater_equal_, not_equal_ = lt_, le_, gt_, ge_, ne_
    logical_and_, logical_or_ = _inplace(logical_and), _inplace(logical_or)
    logical_not_ = _inplace(logical_not)
    logical_xor_ = _inplace(logical_xor)
    bitwise_and_, bitwise_or_ = _inplace(bitwise_and), _inplace(bitwise_or)
    bitwise_xor_, bitwise_not_ = _inplace(bitwise_xor), _inplace(bitwise_not)
    bitwise_left_shift_ = _inplace(bitwise_left_shift)
    bitwise_right_shift_ = _inplace(bitwise_right_shift)
    cumsum_, cumprod_ = _inplace(cumsum), _inplace(cumprod)
    tril_, triu_ = _inplace(tril), _inplace(triu)
    index_add_, index_copy_ = _inplace(index_add), _inplace(index_copy)
    index_fill_, index_reduce_, put_ = _inplace(index_fill), _inplace(index_reduce), _inplace(put)
    index_put_, masked_fill_ = _inplace(index_put), _inplace(masked_fill)
    masked_scatter_ = _inplace(masked_scatter)
    scatter_, scatter_add_ = _inplace(scatter), _inplace(scatter_add)
    scatter_reduce_ = _inplace(scatter_reduce)
    addmm_, addmv_ = _inplace(addmm), _inplace(addmv)
    addr_, baddbmm_, addbmm_ = _inplace(addr), _inplace(baddbmm), _inplace(addbmm)
    renorm_ = _inplace(renorm)

    __iadd__, __isub__, __imul__, __itruediv__ = add_, sub_, mul_, div_
    __idiv__, __div__ = div_, div
    __idiv__, __ilshift__, __irshift__ = div_, bitwise_left_shift_, bitwise_right_shift_
    __ifloordiv__, __imod__, __ipow__ = floor_divide_, remainder_, pow_
    __iand__, __ior__, __ixor__ = bitwise_and_, bitwise_or_, bitwise_xor_

    # fmt: on

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]  # elementwise, as in PyTorch
        if isinstance(other, Tensor | _int | _float | _complex | np.generic):
            return elementwise.eq(self, other)  # type: ignore[arg-type]
        return NotImplemented

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        if isinstance(other, Tensor | _int | _float | _complex | np.generic):
            return elementwise.ne(self, other)  # type: ignore[arg-type]
        return NotImplemented

    def __rmod__(self, other: Any) -> Tensor:
        return elementwise.remainder(other, self)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return direct(elementwise.floor_divide)(other, self)

    def __rmatmul__(self, other: Any) -> Tensor:
        return linalg.matmul(interop.as_tensor(other), self)

    def where(self, condition: Tensor, other: Any) -> Tensor:
        """`self` where `condition` is true, `other` elsewhere."""
        found: Tensor = indexing.where(condition, self, other)
        return found

    @property
    def T(self) -> Tensor:
        """Dimensions reversed."""
        return shapes.permute(self, tuple(reversed(range(self.array.ndim))))

    @property
    def mT(self) -> Tensor:
        """The last two dimensions exchanged."""
        _matrices("mT", self)
        return shapes.transpose(self, -2, -1) if self.array.ndim else self

    @property
    def H(self) -> Tensor:
        """A matrix transposed and conjugated."""
        if self.array.ndim not in (0, 2):
            raise ShapeError(
                "H",
                f"tensor.H is only supported on matrices (2-D tensors). Got {self.array.ndim}-D "
                f"tensor",
                hint="use mH for batches of matrices",
            )
        return elementwise.conj(shapes.t(self) if self.array.ndim else self)

    @property
    def mH(self) -> Tensor:
        """The last two dimensions exchanged, conjugated."""
        _matrices("mH", self)
        return shapes.adjoint(self)


def _matrices(where: str, tensor: Tensor) -> None:
    if tensor.array.ndim == 1:
        raise ShapeError(
            where,
            f"tensor.{where} is only supported on matrices or batches of matrices. Got 1-D tensor",
        )


for _name, _value in list(vars(Tensor).items()):  # methods have no out=, and NumPy's names
    _plain = direct(_value)
    if with_dim(_plain):
        _plain = takes_numpy_names(_plain)
    if _plain is not _value:
        setattr(Tensor, _name, _plain)
tape._Tensor = Tensor
