"""From Python functions to machine code: `task` and `inner`.

A *task* is a function `(block, worker, *arguments)` that does one block of a kernel's work; it
reads its arguments by their annotations: `ptr` (an address) and `i64` become integers, `f32` a
float32. The pool runs all blocks of a task. All compiled code has one signature, so that nothing is
compiled again for another layout or a read-only array; what it returns says whether it raised.

Modules that import this one (and with it Numba) are imported only when something must be compiled;
`loader` keeps and loads what was.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any, NewType

import numba
import numpy as np
from llvmlite import ir
from numba.core import compiler, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from tensorlib.kernels import Unsupported
from tensorlib.kernels.cpu import loader

__all__ = [
    "Task",
    "entry_point",
    "f32",
    "i64",
    "inner",
    "ptr",
    "task",
    "vectorised",
    "vectorised_task",
]

ptr = NewType("ptr", int)
i64 = NewType("i64", int)
f32 = NewType("f32", float)

# No flag that assumes away NaN or infinity; sums keep their order unless a function asks.
FLAGS = {"contract", "nsz"}

_OPTIONS = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def inner(function: Callable[..., Any]) -> Any:
    """A function for tasks to call: compiled into them."""
    return numba.njit(fastmath=FLAGS, inline="never", **_OPTIONS)(function)


def vectorised(function: Callable[..., Any]) -> Any:
    """As `inner`, where sums may be taken in another (fixed) order, so that loops with them become
    vector code.
    """
    return numba.njit(fastmath={*FLAGS, "reassoc"}, **_OPTIONS)(function)


@intrinsic
def _argument(context: Any, address: Any, place: Any) -> Any:
    """The float64 number `place` of the arguments at `address`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = builder.add(args[0], builder.mul(args[1], ir.Constant(ir.IntType(64), 8)))
        return builder.load(builder.inttoptr(at, ir.DoubleType().as_pointer()))

    return types.float64(types.int64, types.int64), generate


_READ = {
    "ptr": "int(_argument(_at, {}))",
    "i64": "int(_argument(_at, {}))",
    "f32": "_f32(_argument(_at, {}))",
}


class Task:
    """A block function that can be compiled."""

    def __init__(self, function: Callable[..., Any], reassociate: bool) -> None:
        self.function = function
        self.name = function.__name__
        self.arguments = function.__code__.co_argcount - 2
        self.reassociate = reassociate
        self._address = 0
        self._lock = threading.Lock()

    @property
    def address(self) -> int:
        """Address of the machine code: from the cache for the tasks of this package, otherwise
        compiled when first wanted.
        """
        if not self._address:
            package, _, family = self.function.__module__.rpartition(".")
            with self._lock:
                if package == loader.TASKS:
                    self._address = loader.address(family, self.name)
                elif not self._address:
                    self._address = loader.load(self.compile(), self.name)
        return self._address

    def compile(self) -> bytes:
        """The object code; raises Unsupported where that cannot be made."""
        function = self.function
        names = function.__code__.co_varnames[2 : function.__code__.co_argcount]
        kinds = [function.__annotations__[name] for name in names]  # strings: annotations are late
        reads = ", ".join(_READ[kind].format(i) for i, kind in enumerate(kinds))
        source = f"def {self.name}(_at, block, worker):\n    _body(block, worker, {reads})\n"
        body = (vectorised if self.reassociate else inner)(function)
        scope: dict[str, Any] = {"_body": body, "_argument": _argument, "_f32": np.float32}
        scope["__name__"] = function.__module__
        exec(compile(source, function.__code__.co_filename, "exec"), scope)
        return _object_code(scope[self.name])


class EntryPoint:
    """A function of int64 numbers that is compiled as it is."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.arguments = function.__code__.co_argcount

    def compile(self) -> bytes:
        """The object code; raises Unsupported where that cannot be made."""
        return _object_code(self.function)


COMPILED = (Task, EntryPoint)


def task(function: Callable[..., Any]) -> Task:
    """Make `function(block, worker, *arguments)` a Task."""
    return Task(function, False)


def vectorised_task(function: Callable[..., Any]) -> Task:
    """As `task`, with `vectorised`'s freedom in sums."""
    return Task(function, True)


def entry_point(function: Callable[..., Any]) -> EntryPoint:
    """Make a function of int64 numbers callable from C, without blocks and workers."""
    return EntryPoint(function)


def _object_code(function: Callable[..., Any]) -> bytes:
    """Compile a function of int64 numbers; its object file exports `loader.ENTRY`."""
    name = function.__name__
    if numba.config.DISABLE_JIT:
        raise Unsupported("NUMBA_DISABLE_JIT forbids compiled kernels")
    try:
        return _compiled(function)
    except Unsupported:
        raise
    except Exception as problem:  # Numba and LLVM raise what they like
        text = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise Unsupported(f"the kernel {name} does not compile: {text}") from problem


@global_compiler_lock
def _compiled(function: Callable[..., Any]) -> bytes:
    flags = compiler.Flags()
    cpu_target.options.parse_as_flags(flags, {"nopython": True, **_OPTIONS})
    flags.no_compile = True  # the entry is added first
    context = cpu_target.target_context
    result = compiler.compile_extra(
        cpu_target.typing_context,
        context,
        function,
        args=(types.int64,) * function.__code__.co_argcount,
        return_type=types.void,
        flags=flags,
        locals={},
    )
    if result.typing_error is not None:
        raise result.typing_error
    library = result.library
    library.enable_object_caching()
    library.add_ir_module(_entry(context, result.fndesc))
    library.finalize()
    if library.has_dynamic_globals:
        raise Unsupported(f"the kernel {function.__name__} holds addresses of this process")
    process = ctypes.CDLL(None)
    for called in library._final_module.functions:
        outside = called.is_declaration and not called.name.startswith("llvm.")
        if outside and not hasattr(process, called.name):  # what Numba itself provides is no help
            raise Unsupported(f"the kernel {function.__name__} needs {called.name}")
    return bytes(library._get_compiled_object())


def _entry(context: Any, description: Any) -> Any:
    """A module with a C function that calls the compiled one and returns 1 where that raised."""
    module = context.create_module("entry")
    kind = context.call_conv.get_function_type(description.restype, description.argtypes)
    compiled = ir.Function(module, kind, description.llvm_func_name)
    word = ir.IntType(64)
    made = ir.Function(
        module, ir.FunctionType(word, [word] * len(description.argtypes)), loader.ENTRY
    )
    builder = ir.IRBuilder(made.append_basic_block("entry"))
    status, _ = context.call_conv.call_function(
        builder, compiled, description.restype, description.argtypes, made.args
    )
    builder.ret(builder.zext(status.is_error, word))
    return module
