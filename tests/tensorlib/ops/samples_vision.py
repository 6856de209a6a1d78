"""Samples: resizing, sampling, attention, sequence losses."""

import numpy as np

from .inputs import b, f, i, lit, restart, s

restart(23)

LOGITS = np.random.default_rng(11).standard_normal((8, 3, 5))
LOG_PROBS = lit(LOGITS - np.log(np.exp(LOGITS).sum(2, keepdims=True)), grad=True)
TARGETS = lit(np.random.default_rng(12).integers(1, 5, (3, 3)))
PADDING = lit(np.arange(6) > np.array([[5], [3], [4]]))


def attention(*others, **options):
    """multi_head_attention_forward of width 8 with 2 heads."""
    small = {"lo": -0.5, "hi": 0.5}
    others = others or (None, None, False)
    weights = f(24, 8, **small), f(24, **small), *others, 0.0, f(8, 8, **small), f(8, **small)
    inputs = (f(length, 3, 8, lo=-1, hi=1) for length in (5, 6, 6))
    return s(*inputs, 8, 2, *weights, **options)


RESIZED = [
    s(f(2, 3, 7), 5),
    s(f(2, 3, 7, 5), (4, 9), mode="nearest-exact"),
    s(f(2, 3, 4, 5, 3), scale_factor=1.5),
    s(f(2, 3, 7), scale_factor=0.7, mode="linear"),
    s(f(2, 3, 7), 12, mode="linear", align_corners=True),
    s(f(2, 3, 7, 5), (3, 8), mode="bilinear"),
    s(f(2, 3, 7, 5), scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
    s(f(2, 3, 7, 5), (3, 8), mode="bilinear", antialias=True),
    s(f(2, 3, 7, 5), (9, 8), mode="bicubic", align_corners=True),
    s(f(2, 3, 7, 5), (3, 8), mode="bicubic", antialias=True),
    s(f(1, 2, 4, 5, 3), (3, 7, 2), mode="trilinear"),
    s(f(2, 3, 7, 5), (3, 2), mode="area"),
]

SAMPLED = [
    s(
        f(2, 3, 7, 5, lo=-0.3, hi=0.3),
        f(2, 4, 6, 2, lo=-1.2, hi=1.2),
        mode=mode,
        padding_mode=padding,
        align_corners=corners,
    )
    for mode in ("bilinear", "bicubic")
    for padding in ("zeros", "border", "reflection")
    for corners in (True, False)
] + [
    s(
        f(2, 3, 7, 5, lo=-0.3, hi=0.3),
        f(2, 4, 6, 2, grad=False),
        mode="nearest",
        align_corners=False,
    ),
    s(f(2, 2, 4, 5, 3), f(2, 4, 2, 3, 3, lo=-1.2, hi=1.2), align_corners=False),
]

SAMPLES = {
    "nn.functional.interpolate": RESIZED,
    "nn.functional.grid_sample": SAMPLED,
    "nn.functional.scaled_dot_product_attention": [
        s(f(2, 5, 8), f(2, 7, 8), f(2, 7, 6)),
        s(f(5, 8), f(7, 8), f(7, 6), is_causal=True),
        s(f(2, 2, 5, 8), f(2, 2, 7, 8), f(2, 2, 7, 6), b(5, 7), scale=0.3),
        s(f(5, 8), f(7, 8), f(7, 6), lit(np.eye(5, 7, 1, dtype=bool))),
        s(f(2, 5, 8), f(2, 7, 8), f(2, 7, 6), f(5, 7)),
        s(f(2, 4, 5, 8), f(2, 2, 7, 8), f(2, 2, 7, 6), enable_gqa=True),
    ],
    "nn.functional.multi_head_attention_forward": [
        attention(),
        attention(need_weights=False),
        attention(average_attn_weights=False, key_padding_mask=PADDING),
        attention(attn_mask=lit(np.triu(np.ones((5, 6), bool), 2))),
        attention(f(1, 1, 8), f(1, 1, 8), True, attn_mask=f(5, 6)),
    ],
    "nn.functional.ctc_loss": [
        s(LOG_PROBS, TARGETS, lit([8, 8, 6]), lit([3, 2, 1])),
        s(LOG_PROBS, lit([1, 1, 2, 3]), lit([8, 7, 6]), lit([2, 0, 2]), reduction="sum"),
        s(LOG_PROBS, TARGETS, lit([8, 1, 6]), lit([3, 2, 1]), 0, "none", zero_infinity=True),
        s(LOG_PROBS, i(4, 3, 3), lit([8, 8, 6]), lit([3, 2, 1]), blank=4),
    ],
}
