"""cuDNN is not used, so there is nothing to benchmark; results are deterministic either way."""

enabled = True
benchmark = False
deterministic = False
allow_tf32 = True


def is_available() -> bool:
    """False: CuPy's and our own kernels compute."""
    return False


def version() -> int | None:
    """None: it is not used."""
    return None
