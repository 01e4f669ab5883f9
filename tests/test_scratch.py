"""Memory that one call leaves to the next never shows in a result."""

import threading

import numpy as np

import fastsce
from fastsce import scratch

SIZE = 2 * scratch.SMALL


def test_what_is_given_back_is_borrowed_again():
    """The smallest piece that will do."""
    scratch.kept.clear()
    large, memory, small = (scratch.borrow(size) for size in (3 * SIZE, 2 * SIZE, SIZE))
    for piece in (memory, large, small):
        scratch.give_back(piece)
    assert scratch.borrow(SIZE + 1) is memory
    assert [piece.size for piece in scratch.kept] == [SIZE, 3 * SIZE]


def test_borrowers_share_nothing():
    pieces = [scratch.borrow(SIZE) for _ in range(scratch.PIECES + 2)]
    for i, piece in enumerate(pieces):
        piece[:] = i
    assert all((piece == i).all() for i, piece in enumerate(pieces))
    for piece in pieces:
        scratch.give_back(piece)
    assert len(scratch.kept) <= scratch.PIECES


def test_small_and_huge_pieces_are_not_kept():
    scratch.kept.clear()
    scratch.give_back(scratch.borrow(scratch.SMALL - 1))
    scratch.give_back(np.empty(scratch.LARGEST + 1, np.uint8))
    assert not scratch.kept


def test_all_together_have_a_limit(monkeypatch):
    scratch.kept.clear()
    monkeypatch.setattr(scratch, "ALL", 3 * SIZE)
    pieces = [scratch.borrow(size) for size in (SIZE, 2 * SIZE, SIZE)]
    for piece in pieces:
        scratch.give_back(piece)
    assert [piece.size for piece in scratch.kept] == [SIZE, 2 * SIZE]


def test_an_array_lasts_as_long_as_what_is_seen_of_it():
    scratch.kept.clear()
    seen = scratch.floats((4, SIZE // 8))[1:, ::2]
    assert not scratch.kept
    seen[...] = 1.0
    del seen
    assert [piece.size for piece in scratch.kept] == [4 * SIZE]


def test_what_is_too_small_makes_room():
    scratch.kept.clear()
    for size in (SIZE, 2 * SIZE, 3 * SIZE):
        pieces = [scratch.borrow(size) for _ in range(scratch.PIECES)]
        for piece in pieces:
            scratch.give_back(piece)
    assert [piece.size for piece in scratch.kept] == [3 * SIZE] * scratch.PIECES


def test_results_survive_later_calls():
    """Losses one a row, lse and gradients are memory of their own, also while other threads call."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((40_000, 5))
    y = rng.integers(0, 5, 40_000)
    first = fastsce.cross_entropy_value_and_grad(x, y, reduction="none")
    mean = fastsce.cross_entropy(x, y)
    copies = [a.copy() for a in first]
    others = [threading.Thread(target=fastsce.cross_entropy, args=(x * i, y)) for i in (2, 3)]
    for thread in others:
        thread.start()
    means = {fastsce.cross_entropy(x, y) for _ in range(20)}
    for thread in others:
        thread.join()
    assert means == {mean}
    assert all((a == b).all() for a, b in zip(first, copies, strict=True))


def test_every_function_gives_back_what_it_borrows():
    """At least so many pieces; with many threads that of the kernel as well."""
    x, y, w = np.zeros((40_000, 5)), np.zeros(40_000, np.int64), np.ones(40_000)
    lse = fastsce.logsumexp(x)
    none = {"reduction": "none", "sample_weight": w}
    calls = [
        (1, lambda: fastsce.cross_entropy(x, y)),
        (1, lambda: fastsce.cross_entropy_value_and_grad(x, y)),
        (2, lambda: fastsce.cross_entropy_grad_and_hess(x, y)),
        (3, lambda: fastsce.cross_entropy(x, y.astype(np.int32), sample_weight=w)),
        (4, lambda: fastsce.cross_entropy(x, y.astype(np.int32), sample_weight=w, backend="cpu")),
        (2, lambda: fastsce.cross_entropy_value_and_grad(x, y, **none, grad_output=w)),
        (2, lambda: fastsce.cross_entropy_backward(x, y, lse, sample_weight=w)),
        (3, lambda: fastsce.cross_entropy_grad_and_hess(x, y, sample_weight=w)),
        (2, lambda: fastsce.softmax(x)),
        (2, lambda: fastsce.log_softmax(x)),
        (1, lambda: fastsce.logsumexp(x)),
        (1, lambda: fastsce.binary_cross_entropy_value_and_grad(x, x, reduction="none", grad_output=x)),
    ]
    for count, call in calls:
        scratch.kept.clear()
        call()
        before = [id(piece) for piece in scratch.kept]
        call()
        assert len(before) >= count
        assert sorted(before) == sorted(id(piece) for piece in scratch.kept)
