"""Models made ready for inference: `compiled = tensorlib.inference.compile(model, example)`.

| file | what |
|---|---|
| `trace.py` `templates.py` | a run recorded: operations, arguments, changes in place |
| `capture.py` `graph.py` | three runs made one graph, for any batch size |
| `passes.py` `epilogues.py` `fused.py` | rewrites, and the operations they put in |
| `pixels.py` | images of bytes as input |
| `lowering.py` `lowered/` | calls as rows of compiled tasks |
| `plan.py` `chunks.py` `segment.py` | one arena of memory, and the rows that run in it |
| `program.py` `steps.py` | all steps of a model in order |
| `compiled.py` | `compile` and its result |
| `quantized.py` | `quantize`: 8-bit numbers where they are faster |
"""

from __future__ import annotations

from tensorlib.inference.compiled import Compiled, InferenceWarning, compile
from tensorlib.inference.quantized import QuantizationReport, Quantized, quantize

__all__ = [
    "Compiled",
    "InferenceWarning",
    "QuantizationReport",
    "Quantized",
    "compile",
    "quantize",
]
