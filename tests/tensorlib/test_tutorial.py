"""A beginner's script, only the import changed."""

import tensorlib as torch


def test_linear_regression_learns_to_double():
    torch.manual_seed(0)
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    y = x * 2
    model = torch.nn.Linear(1, 1)
    criterion = torch.nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(1_000):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        predicted = model(torch.tensor([[4.0]])).item()
    assert abs(predicted - 8) < 0.05
    assert losses[-1] < 1e-3 < losses[0]
