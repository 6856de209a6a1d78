"""An output layer for many classes of very different frequency."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import tensorlib
from tensorlib.nn import functional as F
from tensorlib.nn.container import ModuleList, Sequential
from tensorlib.nn.linear import Linear
from tensorlib.nn.module import Module
from tensorlib.tensor import Tensor

__all__ = ["AdaptiveLogSoftmaxWithLoss"]


class ASMoutput(NamedTuple):
    """Log-probability of each target, and the mean of their negatives."""

    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(Module):
    """Softmax over `n_classes` sorted by falling frequency, cut into clusters at `cutoffs`; each
    next cluster sees the input through a layer `div_value` times narrower. E. Grave et al.,
    Efficient softmax approximation for GPUs, 2016.

    Shape: (N, in_features) and (N), or (in_features) and (), to (N) or () and the scalar loss.
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        cuts = list(cutoffs)
        wrong = not cuts or cuts != sorted(set(cuts)) or any(int(c) != c for c in cuts)
        if wrong or cuts[0] <= 0 or cuts[-1] > n_classes - 1:
            raise ValueError(
                f"cutoffs {cuts} should be a sequence of unique, positive integers sorted in an"
                f" increasing order, where each value is between 1 and n_classes-1={n_classes - 1}"
            )
        self.in_features, self.n_classes = in_features, n_classes
        self.cutoffs = [*cuts, n_classes]
        self.div_value, self.head_bias = div_value, head_bias
        self.shortlist_size = cuts[0]
        self.n_clusters = len(cuts)
        self.head_size = self.shortlist_size + self.n_clusters
        made: Any = {"device": device, "dtype": dtype}
        self.head = Linear(in_features, self.head_size, bias=head_bias, **made)
        self.tail = ModuleList()
        for i, (start, stop) in enumerate(pairwise(self.cutoffs), start=1):
            narrow = int(in_features // div_value**i)
            self.tail.append(
                Sequential(
                    Linear(in_features, narrow, bias=False, **made),
                    Linear(narrow, stop - start, bias=False, **made),
                )
            )

    def reset_parameters(self) -> None:
        self.head.reset_parameters()
        for cluster in self.tail:
            for layer in cluster.children():
                layer.reset_parameters()

    def forward(self, input_: Tensor, target_: Tensor) -> ASMoutput:
        input, target = input_, target_
        if target.dim() > 1:
            raise RuntimeError(
                f"0D or 1D target tensor expected, multi-target not supported, got {target.shape}"
            )
        if input.dim() != target.dim() + 1:
            raise RuntimeError(
                f"{target.dim()}D target tensor expects {target.dim() + 1}D input tensors, but"
                f" found inputs with size {input.shape}"
            )
        if not target.dim():
            alone = self.forward(input.unsqueeze(0), target.unsqueeze(0))
            return ASMoutput(alone.output.squeeze(0), alone.loss)
        if input.shape[0] != target.shape[0]:
            raise RuntimeError(
                "Input and target should have the same size in the batch dimension, got"
                f" {input.shape} and {target.shape}"
            )
        if target.numel() and not bool(((target >= 0) & (target < self.n_classes)).all()):
            raise RuntimeError(
                f"Target values should be in [0, {self.n_classes - 1}], but values in range"
                f" [{target.min().item()}, {target.max().item()}] were found."
            )
        place = target.clone()  # of each target in the head: its own or its cluster's
        output = tensorlib.zeros(len(target), dtype=input.dtype, device=input.device)
        for i, (start, stop) in enumerate(pairwise(self.cutoffs)):
            rows = ((target >= start) & (target < stop)).nonzero().squeeze(1)
            if rows.numel():
                place[rows] = self.shortlist_size + i
                inside = F.log_softmax(self.tail[i](input.index_select(0, rows)), dim=1)
                own = inside.gather(1, (target[rows] - start).unsqueeze(1)).squeeze(1)
                output = output.index_copy(0, rows, own)
        head = F.log_softmax(self.head(input), dim=1)
        output = output + head.gather(1, place.unsqueeze(1)).squeeze(1)
        return ASMoutput(output, (-output).mean())

    def log_prob(self, input: Tensor) -> Tensor:
        """Log-probabilities (N, n_classes) of all classes."""
        head = F.log_softmax(self.head(input), dim=1)
        parts = [head[:, : self.shortlist_size]]
        for i, cluster in enumerate(self.tail):
            cluster_chance = head[:, self.shortlist_size + i].unsqueeze(1)
            parts.append(F.log_softmax(cluster(input), dim=1) + cluster_chance)
        return tensorlib.cat(parts, 1)

    def predict(self, input: Tensor) -> Tensor:
        """The likeliest class of each row; clusters are looked into only where one is."""
        best: Tensor = self.head(input).argmax(1)
        rare = (best >= self.shortlist_size).nonzero().squeeze(1)
        if rare.numel():
            best[rare] = self.log_prob(input.index_select(0, rare)).argmax(1)
        return best
