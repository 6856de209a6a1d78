"""Samples: nn.functional."""

from .inputs import f, far, i, lit, pos, restart, s
from .samples_math import NAN

restart(21)

SPREAD = lit([-30.0, -3.2, -1.5, -0.2, 0.3, 1.5, 3.2, 30.0], grad=True)


def activation(**options):
    """A matrix away from kinks, a wide range, zero-dim, empty; then each option."""
    found = [s(far(3, 4)), s(SPREAD), s(far()), s(f(0, 2)), s(far(2, 3, 2))]
    return found + [s(far(3, 4), **{key: value}) for key, value in options.items()]


ACTIVATION = {
    "softmax": [s(f(3, 4), 1), s(f(3, 4), 0), s(f(2, 3, 4), -2), s(lit([1e4, 0.0], grad=True), 0)],
    "log_softmax": [s(f(3, 4), 1), s(f(2, 3, 4), -2), s(lit([1e4, 0.0], grad=True), 0)],
    "relu": [*activation(), s(NAN), s(i(3, 4, low=-3))],
    "relu6": activation(),
    "leaky_relu": activation(negative_slope=0.2),
    "prelu": [s(far(3, 4), pos(4)), s(far(2, 3, 5), pos(1)), s(far(5), pos(1))],
    "elu": activation(alpha=0.5),
    "selu": activation(),
    "gelu": activation(approximate="tanh"),
    "silu": activation(),
    "mish": activation(),
    "glu": [s(f(3, 4)), s(f(4, 3), 0), s(f(2, 6, 3), -2)],
    "hardtanh": activation(min_val=-0.3, max_val=0.3),
    "hardswish": activation(),
    "hardsigmoid": activation(),
    "softplus": activation(beta=2, threshold=5),
    "logsigmoid": activation(),
}

POOLED = {
    "max_pool1d": [
        s(far(2, 3, 9), 2),
        s(far(3, 9), 3, 2, 1),
        s(far(2, 3, 9), 3, 2, ceil_mode=True),
    ],
    "max_pool2d": [
        s(far(2, 3, 6, 7), 2),
        s(far(3, 6, 7), (3, 2), 2, 1),
        s(far(1, 2, 8, 8), 3, 1, 0, 2),
        s(far(1, 2, 7, 8), 3, 2, ceil_mode=True),
        s(far(1, 1, 6, 6), 2, return_indices=True),
    ],
    "avg_pool1d": [s(f(2, 3, 9), 2), s(f(3, 9), 3, 2, 1), s(f(2, 3, 9), 3, 2, 1, True, False)],
    "avg_pool2d": [
        s(f(2, 3, 6, 7), 2),
        s(f(3, 6, 7), (3, 2), 2, 1),
        s(f(1, 2, 7, 8), 3, 2, 1, True, False),
        s(f(1, 2, 7, 8), 2, divisor_override=3),
    ],
    "adaptive_avg_pool1d": [s(f(2, 3, 9), 4), s(f(3, 9), 1)],
    "adaptive_avg_pool2d": [
        s(f(2, 3, 6, 7), 1),
        s(f(2, 3, 6, 7), (4, 3)),
        s(f(3, 6, 7), (None, 3)),
    ],
    "adaptive_max_pool2d": [s(far(2, 3, 6, 7), 1), s(far(2, 3, 6, 7), (4, 3))],
}

CONVOLUTION = {
    "linear": [s(f(3, 4), f(2, 4)), s(f(2, 3, 4), f(5, 4), f(5)), s(f(4), f(2, 4), f(2))],
    "conv1d": [
        s(f(2, 3, 9), f(4, 3, 3)),
        s(f(2, 4, 9), f(6, 2, 3), f(6), 2, 1, 2, 2),
        s(f(2, 3, 9), f(4, 3, 4), padding="same"),
        s(f(3, 9), f(2, 3, 2)),
    ],
    "conv2d": [
        s(f(2, 3, 6, 7), f(4, 3, 3, 3)),
        s(f(2, 4, 8, 7), f(6, 2, 3, 2), f(6), 2, 1, 2, 2),
        s(f(1, 3, 6, 6), f(3, 1, 3, 3), f(3), groups=3),
        s(f(3, 6, 7), f(2, 3, 1, 1)),
        s(f(1, 2, 6, 6), f(2, 2, 2, 3), padding="same"),
        s(f(0, 2, 6, 6), f(2, 2, 3, 3)),
        s(f(1, 2, 6, 7), f(2, 2, 3, 3), None, (2, 1), (1, 0)),
    ],
    "conv3d": [
        s(f(1, 2, 4, 5, 4), f(3, 2, 2, 3, 2), f(3)),
        s(f(1, 2, 5, 5, 5), f(4, 1, 3, 3, 3), None, 2, 1, 1, 2),
    ],
    "conv_transpose1d": [s(f(2, 3, 5), f(3, 4, 3)), s(f(2, 4, 5), f(4, 3, 3), f(6), 2, 1, 1, 2)],
    "conv_transpose2d": [
        s(f(2, 3, 4, 5), f(3, 4, 3, 3)),
        s(f(1, 4, 4, 3), f(4, 3, 3, 2), f(6), 2, 1, 1, 2),
        s(f(1, 2, 4, 4), f(2, 2, 2, 2), dilation=2),
    ],
    "unfold": [s(f(2, 3, 6, 7), 3), s(f(1, 2, 6, 6), (2, 3), 1, 1, 2), s(f(2, 6, 6), 2, stride=2)],
}


def channels(*shape):
    """A batch and, as constants, running mean and variance of its channels."""
    return (
        f(*shape),
        f(shape[1], grad=False),
        f(shape[1], lo=0.5, hi=2, grad=False),
    )


NORMALIZATION = {
    "batch_norm": [
        s(*channels(4, 3)),
        s(*channels(4, 3, 2, 2), pos(3), f(3)),
        s(*channels(4, 3, 5), pos(3), f(3), True, 0.3),
        s(f(4, 3), None, None, training=True),
    ],
    "layer_norm": [s(f(3, 4), (4,)), s(f(2, 3, 4), (3, 4), pos(3, 4), f(3, 4), 1e-3)],
    "group_norm": [s(f(2, 6, 3), 2), s(f(2, 4, 3, 3), 4, pos(4), f(4), 1e-3)],
    "instance_norm": [s(f(2, 3, 4)), s(f(2, 3, 4, 4), None, None, pos(3), f(3))],
    "rms_norm": [s(f(3, 4), (4,)), s(f(2, 3, 4), (3, 4), pos(3, 4), 1e-3)],
    "normalize": [s(f(3, 4)), s(f(3, 4), 1.0, 0), s(f(2, 3, 2), dim=-1), s(lit([[0.0, 0.0]]))],
    "dropout": [s(f(4, 5), 0.5), s(f(4, 5), 0.2), s(f(4), 0.5, False), s(f(3), 0.0)],
    "dropout2d": [s(f(2, 3, 2, 2), 0.5), s(f(2, 3, 2, 2), 0.5, False)],
}

OTHER = {
    "pad": [s(f(3, 4), (1, 2)), s(f(3, 4), (1, 2, 0, 1), "constant", 1.5), s(f(3, 4), (-1, 1))]
    + [s(f(1, 2, 4, 5), (1, 2, 2, 1), mode) for mode in ("reflect", "replicate", "circular")],
    "pixel_shuffle": [s(f(2, 8, 3, 2), 2)],
    "pixel_unshuffle": [s(f(2, 2, 6, 4), 2)],
    "channel_shuffle": [s(f(2, 6, 3, 2), 3)],
    "embedding": [
        s(i(5, 2, 3), f(5, 4)),
        s(lit([0, 2, 2]), f(5, 4), padding_idx=2),
        s(i(5), f(5, 2)),
    ],
    "embedding_bag": [
        s(i(5, 3, 2), f(5, 4)),
        s(i(5, 3, 2), f(5, 4), mode="sum"),
        s(i(5, 6), f(5, 4), lit([0, 2, 2])),
        s(i(5, 3, 2), f(5, 4), mode="max"),
    ],
    "one_hot": [s(i(4, 3)), s(i(4, 2, 3), 6), s(lit(2))],
    "cosine_similarity": [s(f(3, 4), f(3, 4)), s(f(3, 4), f(1, 4), -1), s(f(3, 4), f(3, 4), dim=0)],
    "pairwise_distance": [
        s(f(3, 4), f(3, 4)),
        s(far(3, 4), f(4), 1.0),
        s(f(3, 4), f(3, 4), keepdim=True),
    ],
}

MODES = ("none", "mean", "sum")


def loss(*args, **options):
    return [s(*args, reduction=mode, **options) for mode in MODES]


def unit(*shape):
    return f(*shape, lo=0.1, hi=0.9)


SIGNS = lit([1.0, -1.0, 1.0])
CLASSES = lit([0, 3, 1])

LOSS = {
    "cross_entropy": [
        *loss(f(3, 4), CLASSES),
        s(f(2, 4, 3), i(4, 2, 3)),
        s(f(4), lit(2)),
        *loss(f(3, 4), CLASSES, weight=f(4, lo=0.5, hi=2, grad=False), label_smoothing=0.1),
        *loss(f(3, 4), lit([0, -100, 1])),
        s(f(3, 4), lit([0, 3, 2]), ignore_index=3),
        *loss(f(3, 4), f(3, 4, lo=0, hi=1)),
    ],
    "nll_loss": [
        *loss(f(3, 4), CLASSES),
        s(f(2, 4, 3), i(4, 2, 3)),
        *loss(f(3, 4), CLASSES, weight=f(4, lo=0.5, hi=2, grad=False), ignore_index=3),
    ],
    "binary_cross_entropy": [
        *loss(unit(3, 4), f(3, 4, lo=0, hi=1, grad=False)),
        s(lit([0.0, 1.0, 0.0]), lit([0.0, 1.0, 1.0])),
        s(unit(3), unit(3), f(3, lo=0.5, hi=2, grad=False)),
    ],
    "binary_cross_entropy_with_logits": [
        *loss(f(3, 4), f(3, 4, lo=0, hi=1, grad=False)),
        s(
            f(3, 4),
            unit(3, 4),
            f(4, lo=0.5, hi=2, grad=False),
            pos_weight=f(4, lo=1, hi=2, grad=False),
        ),
        s(lit([800.0, -800.0], grad=True), lit([0.0, 1.0])),
    ],
    "mse_loss": [*loss(f(3, 4), f(3, 4))],
    "l1_loss": [*loss(far(3, 4), pos(3, 4))],
    "smooth_l1_loss": [*loss(f(3, 4), f(3, 4)), s(f(3, 4), f(3, 4), beta=0.3)],
    "huber_loss": [*loss(f(3, 4), f(3, 4)), s(f(3, 4), f(3, 4), delta=0.3)],
    "kl_div": [
        *loss(f(3, 4), unit(3, 4)),
        s(f(3, 4), unit(3, 4), reduction="batchmean"),
        s(f(3, 4), f(3, 4), reduction="sum", log_target=True),
    ],
    "margin_ranking_loss": [*loss(f(3), f(3), SIGNS), s(f(3), f(3), SIGNS, margin=0.5)],
    "cosine_embedding_loss": [*loss(f(3, 4), f(3, 4), SIGNS), s(f(4), f(4), lit(-1.0), margin=0.1)],
    "triplet_margin_loss": [
        *loss(f(3, 4), f(3, 4), f(3, 4)),
        s(f(3, 4), f(3, 4), f(3, 4), margin=2.0, p=1.0, swap=True),
    ],
}

SAMPLES = {
    f"nn.functional.{name}" if name not in ("softmax", "log_softmax") else name: samples
    for family in (ACTIVATION, POOLED, CONVOLUTION, NORMALIZATION, OTHER, LOSS)
    for name, samples in family.items()
}
