"""What computes: switches by torch.backends' names, which scripts set before they start.

None of them changes a number here: algorithms are deterministic, float32 products are float32.
"""

from tensorlib.backends import cuda, cudnn, mkldnn, mps

__all__ = ["cuda", "cudnn", "mkldnn", "mps"]
