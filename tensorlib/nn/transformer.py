"""The Transformer: encoder and decoder layers and their stacks. Vaswani et al., 2017."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import tensorlib
from tensorlib.autograd import is_grad_enabled
from tensorlib.errors import ShapeError
from tensorlib.nn import functional as F
from tensorlib.nn import init
from tensorlib.nn.activation import GELU, ReLU
from tensorlib.nn.attention import MultiheadAttention
from tensorlib.nn.container import ModuleList
from tensorlib.nn.dropout import Dropout
from tensorlib.nn.linear import Linear
from tensorlib.nn.module import Module
from tensorlib.nn.normalization import LayerNorm
from tensorlib.ops.attention import canonical_mask
from tensorlib.tensor import Tensor

__all__ = [
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]

Activation = str | Callable[[Tensor], Tensor]


class _Layer(Module):
    """What encoder and decoder layers share: attention, two linear maps, norms and dropouts."""

    _attentions: tuple[str, ...] = ("self_attn",)
    _flags_activation = False

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        for name in self._attentions:
            attention = MultiheadAttention(
                d_model, nhead, dropout=dropout, bias=bias, batch_first=batch_first, **made
            )
            setattr(self, name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, **made)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, **made)
        self.norm_first = norm_first
        blocks = range(1, len(self._attentions) + 2)
        for i in blocks:
            setattr(self, f"norm{i}", LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **made))
        for i in blocks:
            setattr(self, f"dropout{i}", Dropout(dropout))
        if isinstance(activation, str):
            activation = _activation(activation)
        if self._flags_activation:
            relu = activation is F.relu or isinstance(activation, ReLU)
            gelu = activation is F.gelu or isinstance(activation, GELU)
            self.activation_relu_or_gelu = 1 if relu else 2 * gelu
        self.activation = activation

    def _attend(
        self, name: str, dropout: Dropout, x: Tensor, source: Tensor, *masks: Any
    ) -> Tensor:
        """Attention of x to `source` with (mask, key padding mask, is_causal)."""
        mask, padding, is_causal = masks
        found: Tensor = getattr(self, name)(
            x,
            source,
            source,
            attn_mask=mask,
            key_padding_mask=padding,
            need_weights=False,
            is_causal=is_causal,
        )[0]
        return dropout(found)  # type: ignore[no-any-return]  # a Module's call is Any

    def _sa_block(self, x: Tensor, *masks: Any) -> Tensor:
        return self._attend("self_attn", self.dropout1, x, x, *masks)

    def _feed(self, x: Tensor, dropout: Dropout) -> Tensor:
        found: Tensor = dropout(self.linear2(self.dropout(self.activation(self.linear1(x)))))
        return found


class TransformerEncoderLayer(_Layer):
    """Self-attention and two linear maps, each with a residual and a LayerNorm after it (or, with
    `norm_first`, before it).

    Shape: src (S, N, d_model), `batch_first` (N, S, d_model), or (S, d_model), to the same; masks
    as MultiheadAttention's attn_mask and key_padding_mask.
    """

    _flags_activation = True

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        padding = canonical_mask(
            src_key_padding_mask, "src_key_padding_mask", src_mask, "src_mask", src
        )
        masks = canonical_mask(src_mask, "src_mask", None, "", src), padding, is_causal
        x = src
        if self.norm_first:
            x = x + self._sa_block(self.norm1(x), *masks)
            return x + self._ff_block(self.norm2(x))
        x = self.norm1(x + self._sa_block(x, *masks))
        return self.norm2(x + self._ff_block(x))  # type: ignore[no-any-return]

    def _ff_block(self, x: Tensor) -> Tensor:
        return self._feed(x, self.dropout2)


class TransformerDecoderLayer(_Layer):
    """As TransformerEncoderLayer, with attention to `memory` between the two.

    Shape: tgt (T, N, d_model) and memory (S, N, d_model), `batch_first` with N first, or both
    without N, to the shape of tgt.
    """

    _attentions = ("self_attn", "multihead_attn")

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        own = tgt_mask, tgt_key_padding_mask, tgt_is_causal
        other = memory_mask, memory_key_padding_mask, memory_is_causal
        x = tgt
        if self.norm_first:
            x = x + self._sa_block(self.norm1(x), *own)
            x = x + self._mha_block(self.norm2(x), memory, *other)
            return x + self._ff_block(self.norm3(x))
        x = self.norm1(x + self._sa_block(x, *own))
        x = self.norm2(x + self._mha_block(x, memory, *other))
        return self.norm3(x + self._ff_block(x))  # type: ignore[no-any-return]

    def _mha_block(self, x: Tensor, memory: Tensor, *masks: Any) -> Tensor:
        return self._attend("multihead_attn", self.dropout2, x, memory, *masks)

    def _ff_block(self, x: Tensor) -> Tensor:
        return self._feed(x, self.dropout3)


class TransformerEncoder(Module):
    """`num_layers` copies of an encoder layer, then `norm`.

    Where PyTorch would compute on nested tensors (`enable_nested_tensor`; evaluation without
    gradients, a key padding mask and no other mask, a batch_first layer of the usual form) the
    output is zero at padded positions, as there. `mask_check=False` takes the padding to be at the
    end without looking.
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = _copies(encoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm
        self.enable_nested_tensor = self.use_nested_tensor = enable_nested_tensor
        self.mask_check = mask_check
        reason = _why_not_nested(encoder_layer)
        if enable_nested_tensor and reason:
            warnings.warn(
                "enable_nested_tensor is True, but self.use_nested_tensor is False because"
                f" {reason}",
                stacklevel=2,
            )
            self.use_nested_tensor = False

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        padding = canonical_mask(src_key_padding_mask, "src_key_padding_mask", mask, "mask", src)
        mask = canonical_mask(mask, "mask", None, "", src)
        first: Any = self.layers[0]
        present = None if mask is not None else self._present(first, src, padding)
        if present is not None:
            padding = canonical_mask(present.logical_not(), "padding", None, "", src)
        causal = _is_causal(mask, is_causal, _length(src, first.self_attn.batch_first))
        output = src
        for layer in self.layers:
            output = layer(output, src_mask=mask, is_causal=causal, src_key_padding_mask=padding)
        if present is not None:
            output = output.masked_fill(present.logical_not().unsqueeze(-1), 0.0)
        return output if self.norm is None else self.norm(output)

    def _present(self, first: Any, src: Tensor, padding: Tensor | None) -> Tensor | None:
        """Which positions PyTorch's nested tensor would hold; None where it would make none."""
        if padding is None or not self.use_nested_tensor or first.training or src.dim() != 3:
            return None
        wanted = [src, *(p for _, p in first.named_parameters())]
        if is_grad_enabled() and any(t.requires_grad for t in wanted):
            return None
        given = padding.array
        if not ((given == 0) | np.isneginf(given)).all():
            return None  # a mask that does more than hide keys
        lengths = (given == 0).sum(1, keepdims=True)
        kept = np.arange(given.shape[1]) < lengths
        if self.mask_check and (kept != (given == 0)).any():
            return None
        return tensorlib.from_numpy(kept)


class TransformerDecoder(Module):
    """`num_layers` copies of a decoder layer, then `norm`."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = _copies(decoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        first: Any = self.layers[0]
        length = _length(tgt, first.self_attn.batch_first)
        causal = _is_causal(tgt_mask, tgt_is_causal, length)
        output = tgt
        for layer in self.layers:
            output = layer(
                output,
                memory,
                tgt_mask=tgt_mask,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=causal,
                memory_is_causal=memory_is_causal,
            )
        return output if self.norm is None else self.norm(output)


class Transformer(Module):
    """An encoder and a decoder.

    Shape: src (S, N, d_model) and tgt (T, N, d_model), `batch_first` with N first, or both without
    N, to the shape of tgt.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        form = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps)
        flags = (batch_first, norm_first, bias)

        def norm() -> LayerNorm:
            return LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **made)

        if custom_encoder is None:
            encoder_layer = TransformerEncoderLayer(*form, *flags, **made)
            custom_encoder = TransformerEncoder(encoder_layer, num_encoder_layers, norm())
        self.encoder = custom_encoder
        if custom_decoder is None:
            decoder_layer = TransformerDecoderLayer(*form, *flags, **made)
            custom_decoder = TransformerDecoder(decoder_layer, num_decoder_layers, norm())
        self.decoder = custom_decoder
        self._reset_parameters()
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        dim = 0 if self.batch_first else 1
        if src.dim() == 3 and src.shape[dim] != tgt.shape[dim]:
            raise ShapeError(
                "Transformer",
                "the batch number of src and tgt must be equal, got "
                f"{src.shape[dim]} and {tgt.shape[dim]}",
            )
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise ShapeError(
                "Transformer",
                f"the feature number of src and tgt must be equal to d_model {self.d_model}, got "
                f"{src.shape[-1]} and {tgt.shape[-1]}",
            )
        memory = self.encoder(
            src,
            mask=src_mask,
            src_key_padding_mask=src_key_padding_mask,
            is_causal=src_is_causal,
        )
        output: Tensor = self.decoder(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )
        return output

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """[sz, sz]: minus infinity above the diagonal, where a later position stands, else 0."""
        return _causal(sz, device, dtype)

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.dim() > 1:
                init.xavier_uniform_(parameter)


def _causal(size: int, device: Any, dtype: Any) -> Tensor:
    full = tensorlib.full((size, size), float("-inf"), device=device, dtype=dtype)
    return tensorlib.triu(full, 1)


def _copies(module: Module, count: int) -> ModuleList:
    return ModuleList([copy.deepcopy(module) for _ in range(count)])


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in ("relu", "gelu"):
        raise ShapeError("Transformer", f"activation should be relu/gelu, not {name}")
    return F.relu if name == "relu" else F.gelu


def _length(src: Tensor, batch_first: bool) -> int:
    return src.shape[1 if batch_first and src.dim() == 3 else 0]  # type: ignore[no-any-return]


def _is_causal(mask: Tensor | None, is_causal: bool | None, size: int) -> bool:
    """The hint given, or whether the mask is the causal one."""
    if is_causal is not None or mask is None:
        return is_causal is True
    expected = _causal(size, mask.device, mask.dtype)
    return tuple(mask.shape) == tuple(expected.shape) and bool((mask == expected).all())


def _why_not_nested(layer: Any) -> str:
    """PyTorch's words for why such a layer has no path for nested tensors; "" where it has one."""
    name = "encoder_layer"
    if not isinstance(layer, TransformerEncoderLayer):
        return f"{name} was not TransformerEncoderLayer"
    attention: Any = layer.self_attn
    if layer.norm_first:
        return f"{name}.norm_first was True"
    if not attention.batch_first:
        return (
            f"{name}.self_attn.batch_first was not True"
            "(use batch_first for better inference performance)"
        )
    if not attention._qkv_same_embed_dim:
        return f"{name}.self_attn._qkv_same_embed_dim was not True"
    if attention.in_proj_bias is None:
        return f"{name}.self_attn was passed bias=False"
    if not layer.activation_relu_or_gelu:
        return f"{name}.activation_relu_or_gelu was not True"
    if layer.norm1.eps != layer.norm2.eps:
        return f"{name}.norm1.eps was not equal to {name}.norm2.eps"
    if attention.num_heads % 2:
        return f"{name}.self_attn.num_heads is odd"
    return ""
