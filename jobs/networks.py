"""The networks of train_sequence, train_gan and train_tabular."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal

import tensorlib
from tensorlib import Tensor, nn


class SequenceModel(nn.Module):
    """An LSTM (Hochreiter and Schmidhuber, 1997) or a Transformer that looks back only (Vaswani et
    al., 2017; norms first, learned positions).

    Shape: [N, T] of int64 where `tokens` says how many there are, or [N, T, features], to
    [N, T, outputs]; with `last` to [N, outputs], of the last position. T is at most `window`.

    Args:
        heads: of the Transformer's attention; they divide `width`.
        dropout: between layers and before the output.
    """

    def __init__(
        self,
        kind: Literal["lstm", "transformer"],
        outputs: int,
        window: int,
        *,
        tokens: int | None = None,
        features: int = 0,
        width: int = 128,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.0,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.last = last
        self.inputs = nn.Embedding(tokens, width) if tokens else nn.Linear(features, width)
        self.lstm = self.encoder = None
        if kind == "lstm":
            between = dropout if layers > 1 else 0.0
            self.lstm = nn.LSTM(width, width, layers, dropout=between, batch_first=True)
        else:
            self.positions = nn.Embedding(window, width)
            layer = nn.TransformerEncoderLayer(
                *(width, heads, 4 * width, dropout), batch_first=True, norm_first=True
            )
            norm = nn.LayerNorm(width)
            self.encoder = nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inputs(x)
        if self.lstm is not None:
            hidden, _ = self.lstm(hidden)
        else:
            assert self.encoder is not None
            length = x.shape[1]
            hidden = hidden + self.positions(tensorlib.arange(length))
            mask = nn.Transformer.generate_square_subsequent_mask(length)
            hidden = self.encoder(hidden, mask=mask, is_causal=True)
        output: Tensor = self.head(self.dropout(hidden[:, -1] if self.last else hidden))
        return output


class GAN(nn.Module):
    """The two networks of a DCGAN (Radford et al., 2016) as one module.

    A picture's side is halved until it is odd or at most 4; `width` channels come from or go to the
    picture, twice as many with each halving. Pixels are in -1..1.

    Shape: noise [N, noise, 1, 1]; images [N, channels, size, size]; logits [N].

    Raises:
        ValueError: a size that cannot be halved to 8 or less.
    """

    def __init__(self, size: int, channels: int, noise: int = 64, width: int = 32) -> None:
        super().__init__()
        start, halvings = size, 0
        while start % 2 == 0 and start > 4:
            start, halvings = start // 2, halvings + 1
        if not halvings or start > 8:
            raise ValueError(
                f"GAN: images of {size}x{size} are halved to {start}x{start}; expected a size that "
                "halves to 8 or less, such as 28, 32 or 64"
            )
        widths = [width * 2**i for i in range(halvings)]
        up: list[nn.Module] = [
            nn.ConvTranspose2d(noise, widths[-1], start, bias=False),
            *(nn.BatchNorm2d(widths[-1]), nn.ReLU()),
        ]
        for wide, narrow in pairwise(reversed(widths)):
            up += [
                nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False),
                *(nn.BatchNorm2d(narrow), nn.ReLU()),
            ]
        up += [nn.ConvTranspose2d(width, channels, 4, 2, 1), nn.Tanh()]
        down: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for narrow, wide in pairwise(widths):
            down += [
                nn.Conv2d(narrow, wide, 4, 2, 1, bias=False),
                *(nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)),
            ]
        down += [nn.Conv2d(widths[-1], 1, start), nn.Flatten(0)]
        self.generator, self.discriminator = nn.Sequential(*up), nn.Sequential(*down)
        self.apply(_as_in_dcgan)

    def forward(self, noise: Tensor, images: Tensor | None = None) -> tuple[Tensor, ...]:
        """The discriminator's logits of what the generator makes of `noise`, with gradients for the
        generator alone; with `images` those of them and of what is made, for itself alone.
        """
        if images is None:
            with _without_gradients(self.discriminator):
                return (self.discriminator(self.generator(noise)),)
        with tensorlib.no_grad():
            made = self.generator(noise)
        return self.discriminator(images), self.discriminator(made)


class TableModel(nn.Module):
    """A perceptron on numbers and embedded categories.

    Category 0 of each column, for what is missing or was not seen, is a vector of zeros.

    Shape: [N, numbers] of float32 and [N, len(categories)] of int64 to [N, outputs].

    Args:
        categories: how many there are in each column, with that of category 0.
        embedding: length of a category's vector.
    """

    def __init__(
        self,
        numbers: int,
        categories: Sequence[int],
        outputs: int,
        hidden: Sequence[int] = (64, 64),
        embedding: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(
            nn.Embedding(count, embedding, padding_idx=0) for count in categories
        )
        sizes = [numbers + embedding * len(categories), *hidden]
        layers: list[nn.Module] = []
        for inputs, width in pairwise(sizes):
            layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        parts = [embed(codes[:, i]) for i, embed in enumerate(self.embeddings)]
        output: Tensor = self.layers(tensorlib.cat([numbers, *parts], 1))
        return output


def _as_in_dcgan(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d) and module.weight is not None:
        nn.init.normal_(module.weight, 1.0, 0.02)


@contextmanager
def _without_gradients(module: nn.Module) -> Iterator[None]:
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
