"""Calls of more than 2³¹ elements, or bytes from one element to the next: what 32 bits cannot count.

Nearly all of it is one row repeated, with stride 0, or memory that nobody has touched: none of it takes much room.
"""

import numpy as np
from cases import DTYPES, labels, logits
from expect import refused, same_bits
from fences import Slot, lay, span

import fastsce

ROWS, CLASSES = 65537, 32771  # together 2³¹ + 32771·(65537 − 65536) + …: more than 31 bits hold
FAR = 1 << 33  # bytes of a slot of which a few pages are used


def repeated(row, rows):
    return np.broadcast_to(row, (rows, row.size))


def losses_of_repeated_rows(dtype):
    """Each is that of the row alone; a bad label in the last row is refused."""
    row, y = logits((1, CLASSES), dtype)[0], np.arange(ROWS) % 7 * 4681
    x = repeated(row, ROWS)
    found = fastsce.cross_entropy(x, y, reduction="none")
    alone = fastsce.cross_entropy(repeated(row, 7), y[:7], reduction="none")
    assert same_bits(found, np.resize(alone, ROWS))
    y[-1] = CLASSES
    refused(IndexError, f"target[{ROWS - 1}] is {CLASSES}", fastsce.cross_entropy, x, y)


def many_short_rows():
    """More rows than 24 bits count, 129 classes each."""
    row, rows = logits((1, 129), "float16")[0], 16_700_000
    y = np.broadcast_to(np.uint8(128), rows)
    found = fastsce.cross_entropy(repeated(row, rows), y, reduction="none")
    alone = fastsce.cross_entropy(row, 128)
    assert (found == alone).all()


def repeated_columns():
    """The classes are first, and no two of them side by side."""
    column = logits((1, CLASSES), "bfloat16")[0]
    found = fastsce.logsumexp(np.broadcast_to(column[:, None], (CLASSES, ROWS)), 0)
    assert same_bits(found, np.full(ROWS, fastsce.logsumexp(column)))


def repeated_elements():
    x = np.broadcast_to(np.float32(0.5), (ROWS, CLASSES))
    found = fastsce.binary_cross_entropy(x, np.broadcast_to(np.float32(1), x.shape))
    assert abs(found - np.log1p(np.exp(-0.5))) < 1e-6


def rows_far_apart():
    """Two rows, and more than 2³² bytes between them, in logits and gradient, forwards and backwards."""
    y = labels((2,), 300)
    for dtype, step in (("float32", FAR - 8192), ("float16", 2 - FAR + 8192)):
        kind, near = DTYPES[dtype], logits((2, 300), dtype)
        x, out = (far(near.shape, kind, (step, kind.itemsize)) for _ in range(2))
        x[...] = near
        found = fastsce.cross_entropy_value_and_grad(x, y, out=out, weight=np.linspace(0.5, 1, 300))
        alone = fastsce.cross_entropy_value_and_grad(near, y, weight=np.linspace(0.5, 1, 300))
        assert found.grad is out
        assert same_bits(found.loss, alone.loss)
        assert same_bits(np.array(out), alone.grad)


def classes_far_apart():
    """Three classes of 40 samples each."""
    kind, near, y = DTYPES["float32"], logits((3, 40)), labels((40,), 3)
    x, out = (far(near.shape, kind, ((FAR - 8192) // 2 & -4, 4)) for _ in range(2))
    x[...] = near
    fastsce.cross_entropy_value_and_grad(x, y, axis=0, out=out)
    np.testing.assert_allclose(out, fastsce.cross_entropy_value_and_grad(near, y, axis=0).grad, rtol=1e-6)


def far(shape, dtype, strides):
    slot = Slot(FAR)
    assert span(shape, strides, dtype.itemsize) <= FAR
    return lay(slot.memory, shape, dtype, strides, 0, upper=True)


CASES = {
    "float32 rows": lambda: losses_of_repeated_rows("float32"),
    "bfloat16 rows": lambda: losses_of_repeated_rows("bfloat16"),
    "short rows": many_short_rows,
    "columns": repeated_columns,
    "elements": repeated_elements,
    "rows far apart": rows_far_apart,
    "classes far apart": classes_far_apart,
}
