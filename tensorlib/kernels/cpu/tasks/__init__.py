"""Compiled code of the kernels, one file per family; needs Numba."""
