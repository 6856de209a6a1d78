"""Lowerings by family; importing this registers them."""

from __future__ import annotations

from tensorlib.inference.lowered import convolution as convolution
from tensorlib.inference.lowered import images as images
from tensorlib.inference.lowered import int8 as int8
from tensorlib.inference.lowered import rows as rows
from tensorlib.inference.lowered import shapes as shapes
