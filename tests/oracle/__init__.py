"""PyTorch's own test databases, run side by side: `python -m tests.oracle` prints what passes."""
