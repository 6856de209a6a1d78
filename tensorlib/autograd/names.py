"""PyTorch's names of the steps of a graph, such as `AddBackward0`, as `print(tensor)` shows them.

A step is called after the function that recorded it; the tables hold what PyTorch calls otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

# by the name of our function: PyTorch's name of the step
_NAMES = {
    "astype": "ToCopyBackward0",
    "cast": "ToCopyBackward0",
    "to_copy": "ToCopyBackward0",
    "fill": "FillBackward0",
    "rdiv": "MulBackward0",
    "rsub": "RsubBackward1",
    "rpow": "PowBackward2",
    "square": "PowBackward0",
    "outer": "MulBackward0",
    "clamp_min": "ClampMinBackward0",
    "clamp_max": "ClampMaxBackward0",
    "conv1d": "ConvolutionBackward0",
    "conv2d": "ConvolutionBackward0",
    "conv3d": "ConvolutionBackward0",
    "conv_transpose1d": "ConvolutionBackward0",
    "conv_transpose2d": "ConvolutionBackward0",
    "conv_transpose3d": "ConvolutionBackward0",
    "batch_norm": "NativeBatchNormBackward0",
    "layer_norm": "NativeLayerNormBackward0",
    "group_norm": "NativeGroupNormBackward0",
    "max_pool1d": "SqueezeBackward1",
    "max_pool2d": "MaxPool2DWithIndicesBackward0",
    "max_pool3d": "MaxPool3DWithIndicesBackward0",
    "cross_entropy": "NllLossBackward0",
    "norm": "LinalgVectorNormBackward0",
    "vector_norm": "LinalgVectorNormBackward0",
    "det": "LinalgDetBackward0",
    "inv": "LinalgInvExBackward0",
    "svd": "LinalgSvdBackward0",
    "eigh": "LinalgEighBackward0",
    "eig": "LinalgEigBackward0",
    "qr": "LinalgQrBackward0",
    "cholesky": "LinalgCholeskyExBackward0",
    "solve": "LinalgSolveExBackward0",
    "lu_factor": "LinalgLuFactorExBackward0",
    "matrix_exp": "LinalgMatrixExpBackward0",
    "flatten": "ViewBackward0",
    "ravel": "ViewBackward0",
    "reshape": "ViewBackward0",
    "unflatten": "ViewBackward0",
    "narrow": "SliceBackward0",
    "movedim": "PermuteBackward0",
    "broadcast_to": "ExpandBackward0",
    "tile": "RepeatBackward0",
    "tiled": "RepeatBackward0",
    "part": "SliceBackward0",
    "copied": "torch::autograd::CopyBackwards",
    "real": "SelectBackward0",
    "imag": "SelectBackward0",
    "setitem": "CopySlices",
    "selu": "EluBackward0",
    "relu6": "HardtanhBackward0",
    "prelu": "PreluKernelBackward0",
    "logsigmoid": "LogSigmoidBackward0",
    "pad": "ConstantPadNdBackward0",
    "pad_constant": "ConstantPadNdBackward0",
    "unfold_images": "Im2ColBackward0",
}


def _reduction(name: str) -> Callable[[Any, dict[str, Any]], str]:
    """`name`0 over everything, `name`1 along dims."""

    def named(node: Any, held: dict[str, Any]) -> str:
        axes = held.get("axes", held.get("axis", held.get("dim")))
        return f"{name}Backward{0 if axes is None else 1}"

    return named


def _extreme(name: str) -> Callable[[Any, dict[str, Any]], str]:
    """`name`1 over everything, `name`0 along a dim."""

    def named(node: Any, held: dict[str, Any]) -> str:
        axes = held.get("axes", held.get("axis", held.get("dim")))
        return f"{name}Backward{1 if axes is None else 0}"

    return named


def _power(node: Any, held: dict[str, Any]) -> str:
    return "PowBackward1" if len(node.inputs) == 2 else "PowBackward0"


def _linear(node: Any, held: dict[str, Any]) -> str:
    ndim = len(node.inputs[0][1])
    if ndim == 1:
        return "SqueezeBackward4" if len(node.inputs) == 2 else "ViewBackward0"
    if ndim == 2:
        return "AddmmBackward0" if len(node.inputs) == 3 else "MmBackward0"
    return "ViewBackward0" if len(node.inputs) == 3 else "UnsafeViewBackward0"


def _product(node: Any, held: dict[str, Any]) -> str:
    a, b = (len(entry[1]) for entry in node.inputs)
    known = {(1, 1): "Dot", (2, 2): "Mm", (2, 1): "Mv", (1, 2): "Squeeze"}
    name = known.get((a, b), "UnsafeView")
    return f"{name}Backward{4 if name == 'Squeeze' else 0}"


def _index(node: Any, held: dict[str, Any]) -> str:
    """PyTorch indexes step by step; the last step gives the name."""
    place = held.get("place")
    if not isinstance(place, tuple):
        return "SliceBackward0"
    if any(hasattr(p, "dtype") and getattr(p, "ndim", 0) for p in place):
        return "IndexBackward0"
    name = "Alias"
    for step in place:
        if step is None:
            name = "Unsqueeze"
        elif isinstance(step, slice):
            if step != slice(None):
                name = "Slice"
        elif step is not Ellipsis:
            name = "Select"
    return f"{name}Backward0"


_VARIANTS: dict[str, Callable[[Any, dict[str, Any]], str]] = {
    "sum": _reduction("Sum"),
    "mean": _reduction("Mean"),
    "prod": _reduction("Prod"),
    "max": _extreme("Max"),
    "min": _extreme("Min"),
    "median": _reduction("Median"),
    "pow": _power,
    "linear": _linear,
    "clamp": lambda node, held: f"ClampBackward{0 if len(node.inputs) > 1 else 1}",
    "fmod": lambda node, held: f"FmodBackward{len(node.inputs) - 1}",
    "remainder": lambda node, held: f"RemainderBackward{len(node.inputs) - 1}",
    "matmul": _product,
    "getitem": _index,
    "triangle": lambda node, held: (
        f"{held['function'].__name__.capitalize()}Backward0" if held else "TriangleBackward0"
    ),
    "scatter": lambda node, held: f"ScatterBackward{0 if len(node.inputs) > 1 else 1}",
    "masked_fill": lambda node, held: f"MaskedFillBackward{1 if len(node.inputs) > 1 else 0}",
}


def node_name(node: Any) -> str:
    """The name of a node; of a freed one that of its usual form."""
    label = node.label
    if label is not None and "." not in label:
        return label  # type: ignore[no-any-return]
    function = node.backward
    qualname = label if function is None else getattr(function, "__qualname__", None)
    if qualname is None:
        return f"{type(function).__name__}Backward0"
    op = qualname.partition(".")[0].strip("_").removesuffix("_scalar")
    variant = _VARIANTS.get(op)
    if variant is not None:
        return variant(node, _held(function))
    known = _NAMES.get(op)
    return known if known is not None else f"{_camel(op)}Backward0"


def _held(function: Any) -> dict[str, Any]:
    names = getattr(function, "__code__", None)
    held = {}
    for name, cell in zip(
        names.co_freevars if names else (),
        getattr(function, "__closure__", None) or (),
        strict=False,
    ):
        try:
            held[name] = cell.cell_contents
        except ValueError:
            continue
    return held


def _camel(op: str) -> str:
    """`log1p` is Log1P, `max_pool2d` MaxPool2D."""
    return re.sub(r"(?:^|_|(?<=\d))([a-z0-9])", lambda m: m[1].upper(), op)
