"""SAMPLES: a name of core_ops.txt -> the argument lists that drive the common suite."""

from . import samples_math, samples_nn, samples_shape, samples_vision

SAMPLES = {
    **samples_math.SAMPLES,
    **samples_shape.SAMPLES,
    **samples_nn.SAMPLES,
    **samples_vision.SAMPLES,
}
CASES = [
    (name, number) for name, samples in sorted(SAMPLES.items()) for number in range(len(samples))
]
IDS = [f"{name}-{number}" for name, number in CASES]
