"""A network whose loss holds a gradient trains: create_graph end to end."""

from __future__ import annotations

import tensorlib
from tensorlib import nn


def test_a_penalised_network_trains() -> None:
    tensorlib.manual_seed(0)
    critic = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = tensorlib.optim.SGD(critic.parameters(), lr=0.05)
    x = tensorlib.randn(32, 4, requires_grad=True)
    losses = []
    for _ in range(50):
        (grad,) = tensorlib.autograd.grad(critic(x).sum(), x, create_graph=True)
        loss = (grad.square().sum(1).sqrt() - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
