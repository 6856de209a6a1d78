"""Imports every family of overrides, which registers them."""

from __future__ import annotations

from tensorlib.kernels.cpu import activation as activation
from tensorlib.kernels.cpu import arithmetic as arithmetic
from tensorlib.kernels.cpu import attention as attention
from tensorlib.kernels.cpu import convolution as convolution
from tensorlib.kernels.cpu import convolution_gradients as convolution_gradients
from tensorlib.kernels.cpu import embedding as embedding
from tensorlib.kernels.cpu import group_norm as group_norm
from tensorlib.kernels.cpu import image as image
from tensorlib.kernels.cpu import layer_norm as layer_norm
from tensorlib.kernels.cpu import matrix as matrix
from tensorlib.kernels.cpu import mersenne as mersenne
from tensorlib.kernels.cpu import normalization as normalization
from tensorlib.kernels.cpu import optimizer as optimizer
from tensorlib.kernels.cpu import pooling as pooling
from tensorlib.kernels.cpu import recurrent as recurrent
from tensorlib.kernels.cpu import softmax as softmax
