"""numba's CUDA target, imported so that it works with NumPy 2.5 too.

NumPy 2.5 has no row_stack any more, for which numba-cuda 0.30 registers an implementation when it is imported
(NVIDIA/numba-cuda#907): it is lent the function for that long.
"""

import numpy as np

MISSING = not hasattr(np, "row_stack")
if MISSING:
    vars(np)["row_stack"] = np.vstack
try:
    import numba.cuda.np.arrayobj  # noqa: F401
    from numba import cuda
finally:
    if MISSING:
        del vars(np)["row_stack"]

__all__ = ["cuda"]
