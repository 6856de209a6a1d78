"""Mirrors the run directory to an experiment tracker. Never in the path of training."""
