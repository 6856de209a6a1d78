"""Data shipped with the example jobs."""
