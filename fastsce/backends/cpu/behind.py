"""Rows that are written behind others: while those are read, so that neither memory nor arithmetic waits."""

from __future__ import annotations

from fastsce import maths
from fastsce.backends.cpu.coefficients import PLACE, PULL, PUSH, SPECIAL, M, facts_at, takes
from fastsce.backends.cpu.jit import apart, device
from fastsce.backends.cpu.memory import (
    address_of,
    adjoin,
    at,
    load,
    moved,
    numbers_in_line,
    past_boundary,
    store,
    stream_line,
)
from fastsce.backends.cpu.partial import fetch, store_part
from fastsce.backends.cpu.passes import Given, block_factor, clear, steps_of, whole_steps, write_gradients
from fastsce.backends.cpu.plan import IGNORED
from fastsce.backends.cpu.room import blocks_of, place_of, seams_at, terms_of
from fastsce.backends.cpu.terms import Middle, marked, row, rows_at
from fastsce.backends.cpu.tuning import BLOCK, CLEAR_BYTES, LANES, PAGE
from fastsce.backends.cpu.vectors import narrow, splat


@device
def past_ignored(group, r, job):
    """The first row from r on that has a middle: where rows are cleared there is nothing but edges."""
    places = facts_at(group.scratch, job).places
    while r < group.n and places[PLACE + r] == IGNORED:
        r += 1
    return r


@device
def middle_of(group, r, start, job, soft, t, x):
    """What of row r can be written while x is read, of the block that begins at `start`; t: any terms."""
    facts, classes = facts_at(group.scratch, job), job.logits.shape[2]
    if r >= group.n or facts.places[PLACE + r] == IGNORED:
        return nothing_of(t, job)
    f, blocks = moved(facts.numbers, r), blocks_of(r, job, group.scratch)
    a, b = place_of(group.i + r, job.logits)
    g, m = at(job.grad, a, b, 0), load(f, M, 0)
    j, whole = whole_steps(g, start, min(start + BLOCK, classes), classes, True)
    factor = narrow(load(f, PUSH, 0) * block_factor(blocks, classes, start, True), m)
    t, place, special = terms_of(r, job, group.scratch).data, facts.places[PLACE + r], load(f, SPECIAL, 0)
    lag, pull = lag_of(g, j, whole, x), pull_of(f, takes(job.law, soft))
    i = j - lag
    q = moved(at(job.soft, a, b, 0), i)
    return Middle(moved(t, i), moved(g, i), lag, whole - i, factor, pull, q, place - i, special)


@device
def lag_of(g, j, stop, x):
    """How much later to stream, lest a load of x have to wait for a store just ahead of it in another page: where
    addresses agree in their last 12 bits, the processor takes it for a load of what is being stored.
    """
    ahead = (address_of(moved(g, j)) - address_of(x)) % PAGE
    some = (ahead // 64 + 1) * steps_of(g, True)  # of float64, twice as many
    return min(some, stop - j) if 0 < ahead < CLEAR_BYTES else 0


@device
def nothing_of(t, job):
    like = load(t, 0, 0)
    return Middle(t, at(job.grad, 0, 0, 0), 0, 0, like, like, job.soft.data, 0, like)


@device
def stream_edges_of(group, n, job, soft):
    (i, _, scratch), facts = group, facts_at(group.scratch, job)
    a, b = place_of(i, job.grad)
    g, t, seams = rows_at(job.grad, a, b), terms_of(0, job, scratch), seams_at(scratch, job)
    q, f, places = rows_at(job.soft, a, b), facts.numbers, facts.places
    stream_edges(t, g, q, takes(job.law, soft), n, job.grad.shape[2], f, places, adjoin(job.grad), seams)


@apart
def stream_edges(t, g, q, taken, n, classes, f, places, adjoining, seams):
    """What the middles of rows leave. Where rows adjoin, the end of one and the beginning of the next share lines,
    which are put together in `seams` first. Rows to leave out have no middle, and are cleared.
    """
    k = 0
    for r in range(n):
        there, m, f_r = row(g, r), load(f, M + r, 0), moved(f, r)
        head, whole = whole_steps(there, 0, classes, classes, True)
        push, pull, special = load(f_r, PUSH, 0), pull_of(f_r, taken), load(f_r, SPECIAL, 0)
        here = Middle(row(t, r), there, head, whole, push, pull, row(q, r), places[PLACE + r], special)
        if here.place == IGNORED:
            clear(there, classes, m)
        joined = adjoining and r > 0
        for i in range(0, head, LANES):
            put_edge(seams, k + i, joined, there, i, head, edge(here, i, classes - i, taken))
        k += head if joined else 0
        joined = adjoining and r < n - 1
        for i in range(whole, classes, LANES):
            put_edge(seams, k + i - whole, joined, there, i, classes, edge(here, i, classes - i, taken))
        k += classes - whole if joined else 0
    if k > 0:
        stream_seams(seams, g, n - 1, classes)


@device
def stream_seams(seams, g, n, classes):
    """What each of n rows shares with the next."""
    for r in range(n):
        there = row(g, r)
        _, whole = whole_steps(there, 0, classes, classes, True)
        size = classes - whole + past_boundary(there, classes)  # the end of this row, the beginning of the next
        for i in range(0, size, numbers_in_line(there)):
            stream_line(seams, moved(there, whole), i)
        seams = moved(seams, size)


@device
def put_edge(seams, k, joined, g, i, stop, v):
    if joined:
        store(seams, k, v)
    else:
        store_part(g, i, stop - i, v)


@device
def edge(of, i, n, taken):
    v = load(of.t, i, LANES)
    share = fetch(of.q, i, n, 0.0, v) if taken else splat(narrow(0.0, of.push), LANES)
    if of.place == IGNORED:
        return splat(narrow(0.0, of.push), LANES)
    return marked(maths.class_gradient(v, of.push, share, of.pull), i, of.place, of.special)


@device
def pull_of(f, taken):
    """What is taken from terms, times a class's share; nothing where nothing is (for 0·∞ is no number)."""
    pull = load(f, PULL, 0)
    return pull if taken else narrow(0.0, pull)


@device
def write_behind(group, r, n, start, stop, edges, job, soft, softcap):
    """Classes start … stop of n rows from row r on, or only the edges of their block, where its middle was written."""
    facts, classes = facts_at(group.scratch, job), job.logits.shape[2]
    f, places = moved(facts.numbers, r), moved(facts.places, r)
    t, blocks = terms_of(r, job, group.scratch), blocks_of(r, job, group.scratch)
    a, b = place_of(group.i + r, job.logits)
    given = Given(rows_at(job.logits, a, b), rows_at(job.soft, a, b), job.weight, t, True)
    how = (edges, classes, f, places, job.law, soft, softcap, True)
    write_gradients(given, blocks, rows_at(job.grad, a, b), n, start, stop, *how)
