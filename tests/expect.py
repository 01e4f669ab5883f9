"""What a test may say of a call or of two arrays."""

import re

import numpy as np
import pytest


def refused(error, message, call, *args, **given):
    """The call raises this error, and its words hold this message."""
    with pytest.raises(error, match=re.escape(message)):
        call(*args, **given)


def same_bits(a, b) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
