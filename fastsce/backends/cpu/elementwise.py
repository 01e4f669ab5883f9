"""What has no maximum to find first: binary cross-entropy, and the product of a vector with softmax's Jacobian but for
what vjp.py has: short rows, and classes that are not last.

Both work on runs of a row. An operand is read where it lies, if its run fills whole vectors side by side; else from a
copy in scratch memory. So are results written if they are not streamed; else they are left in scratch, which stays in
the L1 cache, and sent off from there: a gradient while the next run is worked on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastsce import logistic, maths
from fastsce.backends.cpu.ahead import prefetch_far
from fastsce.backends.cpu.jit import apart, device, kernel
from fastsce.backends.cpu.memory import (
    View,
    address_of,
    at,
    fence,
    load,
    moved,
    numbers_in_line,
    past_boundary,
    pointer,
    put,
    spare,
    store,
    stream_line,
    view,
    workspace,
)
from fastsce.backends.cpu.partial import load_part, store_part
from fastsce.backends.cpu.parts import hand_out, next_share
from fastsce.backends.cpu.reductions import total
from fastsce.backends.cpu.tuning import ELEMENTS_AHEAD, RUN
from fastsce.backends.cpu.tuning import LINE as LANES
from fastsce.backends.cpu.vectors import lane_numbers, narrow, splat, widen

ROOM = 8 * LANES  # bytes, before what is in a slot
SLOT = ROOM + 8 * RUN + 64
# Of binary losses: 0 to 5 operands, 6 the losses, 7 and 8, 9 and 10 gradients and Hessians in turn, 11 to 13 what one
# loop leaves to the next; of softmax_vjp: 0 and 1 p and v, 7 and 8 results in turn.
SCRATCH = 14 * SLOT


class Operand(NamedTuple):
    data: Any
    step: int  # 0 for one number for all, of which LANES copies lie at data


# --- binary cross-entropy ---------------------------------------------------------------------------------------------


@kernel
def binary(logits, target, weight, sample_weight, pos_weight, upstream, loss, grad, hess, sums, streams, parts, memory):
    """All of shape (A, B, C); a factor may be one number for all, of shape (1, 1, 1); results not asked for are empty;
    `sums` gets the losses' sum of each run.
    """
    inputs = view(logits), view(target), factor(weight), factor(sample_weight), factor(pos_weight), factor(upstream)
    outputs = view(loss), view(grad), view(hess)
    return hand_out(binary_share, parts, memory, (inputs, outputs, pointer(sums), streams, parts))


@device
def factor(array):
    v = view(array)
    return View(v.data, v.shape, (0, 0, 0), v.item) if array.size == 1 else v


@device
def binary_share(queue, scratch, inputs, outputs, sums, streams, parts):
    (_, grad, hess), length = outputs, inputs[0].shape[1:]
    runs = -(-length[1] // RUN)
    count = inputs[0].shape[0] * length[0] * runs
    first, stop = next_share(queue, count, parts)
    while first < stop:
        g, h = none_leaving(grad, scratch, 7), none_leaving(hess, scratch, 9)
        for r in range(first, stop):
            i, start = r // runs, r % runs * RUN
            run = i // length[0], i % length[0], start, min(RUN, length[1] - start)
            sums[r], g, h = binary_run(run, inputs, outputs, scratch, streams, r % 2, g, h)
        send_all(g)
        send_all(h)
        first, stop = next_share(queue, count, parts)
    fence()


@device
def binary_run(run, inputs, outputs, scratch, streams, turn, leaving_g, leaving_h):
    """Loss, gradient and Hessian of a run of elements; the sum of the losses, and what is to be streamed next."""
    n, (logits, target, weight, sample_weight, pos_weight, upstream), (loss, grad, hess) = run[3], inputs, outputs
    x, t = operand(logits, run, scratch, 0), operand(target, run, scratch, 1)
    w, s = operand(weight, run, scratch, 2), operand(sample_weight, run, scratch, 3)
    pos, up = operand(pos_weight, run, scratch, 4), operand(upstream, run, scratch, 5)
    share = product(w, s, n, numbers(scratch, 11, logits))
    pull = product(share, up, n, numbers(scratch, 12, logits))
    u, each = numbers(scratch, 13, logits), place_for(loss, run, scratch, 6, streams)
    g, later_g = place_and_next(grad, run, scratch, 7 + turn, streams, leaving_g)
    h, later_h = place_and_next(hess, run, scratch, 9 + turn, streams, leaving_h)
    sums, done = splat(narrow(0.0, load(u, 0, 0)), LANES), 0
    decays(x, u, n)
    if is_plain(share, pos, pull, loss, grad):
        done = n - n % LANES
        if wanted(hess):
            sums = plain(x, t, u, load(pull.data, 0, LANES), g, h, done, leaving_g, leaving_h)
        else:
            sums = plain(x, t, u, load(pull.data, 0, LANES), g, None, done, leaving_g, None)
    for j in range(done, n, LANES):
        v, positive = some(x, j), some(t, j)
        right, wrong = logistic.sides(v, positive * some(pos, j), 1.0 - positive)
        large, small, log_u = logistic.sigmoid(load(u, j, LANES))
        losses = some(share, j) * logistic.loss(v, right, wrong, log_u)
        if wanted(loss):
            store(each, j, losses)
        if wanted(grad):
            store(g, j, some(pull, j) * logistic.gradient(v, right, wrong, large, small))
        if wanted(hess):
            store(h, j, some(pull, j) * logistic.curvature(right, wrong, large, small))
        if j + LANES > n:
            losses = maths.where(lane_numbers(LANES) < n - j, losses, 0.0)
        sums = sums + losses
        prefetch_far(t.data, j + ELEMENTS_AHEAD, LANES)
        if j + LANES <= leaving_g.n:
            send_lines_at(leaving_g, j)
        if j + LANES <= leaving_h.n:
            send_lines_at(leaving_h, j)
    sent(leaving_g, n)
    sent(leaving_h, n)
    send(each, loss, run, streams)
    if later_g.n == 0:
        send(g, grad, run, streams)
    if later_h.n == 0:
        send(h, hess, run, streams)
    return total(sums), begun(later_g), begun(later_h)


@apart
def decays(x, u, n):
    for j in range(0, n, LANES):
        store(u, j, logistic.decay(some(x, j)))
        prefetch_far(x.data, j + ELEMENTS_AHEAD, LANES)


@device
def is_plain(share, pos, pull, loss, grad):
    """Whether elements count alike, and a gradient is wanted of them, but no losses."""
    alike = share.step == 0 and pos.step == 0 and pull.step == 0 and share.data[0] == 1.0 and pos.data[0] == 1.0
    return alike and wanted(grad) and not wanted(loss)


@apart
def plain(x, t, u, pull, g, h, n, leaving_g, leaving_h):
    """What the loop over elements does with factors of 1, of whole vectors; h may be None. The losses' sums."""
    sums = splat(narrow(0.0, load(u, 0, 0)), LANES)
    for j in range(0, n, LANES):
        v, positive = some(x, j), some(t, j)
        right, wrong = logistic.sides(v, positive, 1.0 - positive)
        large, small, log_u = logistic.sigmoid(load(u, j, LANES))
        store(g, j, pull * logistic.gradient(v, right, wrong, large, small))
        sums = sums + logistic.loss(v, right, wrong, log_u)
        prefetch_far(t.data, j + ELEMENTS_AHEAD, LANES)
        if j + LANES <= leaving_g.n:
            send_lines_at(leaving_g, j)
        if h is not None:
            store(h, j, pull * logistic.curvature(right, wrong, large, small))
            if j + LANES <= leaving_h.n:
                send_lines_at(leaving_h, j)
    return sums


# --- results that leave while the next run is worked on ---------------------------------------------------------------


class Leaving(NamedTuple):
    """Results in scratch, and where they are to be streamed to, which begins with a cache line."""

    data: Any
    memory: Any
    n: int


@device
def none_leaving(v, scratch, number):
    return Leaving(slot(scratch, number, v), at(v, 0, 0, 0), 0)


@device
def place_and_next(v, run, scratch, number, streams, leaving):
    return place_for(v, run, scratch, number, streams), next_to_leave(leaving, v, run, scratch, number, streams)


@device
def send_lines_at(leaving, j):
    for k in range(j, j + LANES, numbers_in_line(leaving.data)):
        stream_line(leaving.data, leaving.memory, k)


@device
def send_lines(leaving, start):
    for j in range(start, leaving.n - leaving.n % LANES, LANES):
        send_lines_at(leaving, j)


@device
def send_all(leaving):
    send_lines(leaving, 0)
    send_end(leaving)


@device
def sent(leaving, n):
    """What is left when all lines are sent, of which some were beside a loop over n elements."""
    send_lines(leaving, -(-n // LANES) * LANES)
    whole = leaving.n - leaving.n % LANES
    return Leaving(moved(leaving.data, whole), moved(leaving.memory, whole), leaving.n - whole)


@device
def send_end(leaving):
    over = leaving.n % LANES
    store_some(leaving.memory, leaving.n - over, over, load(leaving.data, leaving.n - over, LANES))


@device
def next_to_leave(leaving, v, run, scratch, number, streams):
    """The results of a run, which will be in that slot, if they are to be streamed. Before them is what lines
    leave of those before, if memory has them there, too; else that is sent off.
    """
    p, memory, over = slot(scratch, number, v), run_of(v, run), leaving.n % LANES
    waits = streams and wanted(v) and v.strides[2] == v.item
    if waits and over > 0 and address_of(memory) == address_of(moved(leaving.memory, leaving.n)):
        store(p, -over, load(leaving.data, leaving.n - over, LANES))
        return Leaving(moved(p, -over), moved(memory, -over), over + run[3])
    send_end(leaving)
    return Leaving(p, memory, run[3] if waits else 0)


@device
def begun(leaving):
    """What precedes the first line is sent off."""
    head = min(past_boundary(leaving.memory, 0), leaving.n)
    store_some(leaving.memory, 0, head, load(leaving.data, 0, LANES))
    return Leaving(moved(leaving.data, head), moved(leaving.memory, head), leaving.n - head)


# --- softmax's Jacobian -----------------------------------------------------------------------------------------------


@kernel
def softmax_vjp(p, v, out, streams, parts, memory):
    """p·(v − ⟨p, v⟩), rows of shape (A, B, C)."""
    return hand_out(vjp_share, parts, memory, (view(p), view(v), view(out), streams, parts))


@device
def vjp_share(queue, scratch, p, v, out, streams, parts):
    count = p.shape[0] * p.shape[1]
    first, stop = next_share(queue, count, parts)
    while first < stop:
        leaving = none_leaving(out, scratch, 7)
        for i in range(first, stop):
            leaving = vjp_row(i, p, v, out, scratch, streams, leaving)
        send_all(leaving)
        first, stop = next_share(queue, count, parts)
    fence()


@device
def vjp_row(i, p, v, out, scratch, streams, leaving):
    """Returns what is to be streamed while the next row is worked on."""
    (a, b), classes, dot = (i // p.shape[1], i % p.shape[1]), p.shape[2], 0.0
    x, y = Operand(at(p, a, b, 0), 1), Operand(at(v, a, b, 0), 1)
    for start in range(0, classes, RUN):
        n = min(RUN, classes - start)
        run = a, b, start, n
        x, y = operand(p, run, scratch, 0), operand(v, run, scratch, 1)
        sums = splat(0.0, LANES)
        for j in range(0, n, LANES):
            probabilities = some(x, j)
            if j + LANES > n:  # where one number stands for all, it stands beyond the end as well
                probabilities = maths.where(lane_numbers(LANES) < n - j, probabilities, 0.0)
            sums = maths.fma(widen(probabilities), widen(some(y, j)), sums)
            if j + LANES <= leaving.n:
                send_lines_at(leaving, j)
        leaving = sent(leaving, n)
        dot += total(sums)
    mean, rest = maths.in_two_parts(dot, load(numbers(scratch, 2, p), 0, 0))
    for start in range(0, classes, RUN):
        n = min(RUN, classes - start)
        run = a, b, start, n
        if classes > RUN:
            x, y = operand(p, run, scratch, 0), operand(v, run, scratch, 1)
        turn = (i * -(-classes // RUN) + start // RUN) % 2
        result, later = place_and_next(out, run, scratch, 7 + turn, streams, leaving)
        for j in range(0, n, LANES):
            store(result, j, maths.jacobian_product(some(x, j), some(y, j), mean, rest))
            if j + LANES <= leaving.n:
                send_lines_at(leaving, j)
        sent(leaving, n)
        if later.n == 0:
            send(result, out, run, streams)
        leaving = begun(later)
    return leaving


# --- runs of a row ----------------------------------------------------------------------------------------------------


@device
def numbers(scratch, number, like):
    """Room for numbers of the working precision."""
    return workspace(scratch, number * SLOT + ROOM, like.data)


@device
def slot(scratch, number, v):
    """Room for numbers as they are stored."""
    return spare(scratch, number * SLOT + ROOM, v.data)


@device
def wanted(result):
    return result.shape[2] > 0


@device
def some(o, j):
    return load(o.data, j * o.step, LANES)


@device
def run_of(v, run):
    a, b, start, _ = run
    return at(v, a, b, start)


@device
def operand(v, run, scratch, number):
    """A run of a row; zeros follow a copy up to a multiple of LANES."""
    (a, b, start, n), source, p = run, run_of(v, run), slot(scratch, number, v)
    step = v.strides[2]
    if step == v.item and n % LANES == 0:
        return Operand(source, 1)
    if step == 0:
        store(p, 0, splat(load(source, 0, 0), LANES))
        return Operand(p, 0)
    if step == v.item:
        for j in range(0, n, LANES):
            store(p, j, load_part(source, j, n - j, 0.0, LANES))
            prefetch_far(source, j + ELEMENTS_AHEAD, LANES)
    else:
        for j in range(n):
            p[j] = at(v, a, b, start + j)[0]
        for j in range(n, -(-n // LANES) * LANES):
            p[j] = 0
    return Operand(p, 1)


@device
def product(one, other, n, p):
    """Of two operands, left in p; for numbers it is worked out once."""
    step = max(one.step, other.step)
    for j in range(0, n if step else LANES, LANES):
        store(p, j, some(one, j) * some(other, j))
    return Operand(p, step)


@device
def place_for(v, run, scratch, number, streams):
    """Where a run of results is to be written: at once where it is to be in the end, or in a slot."""
    at_once = not streams and v.strides[2] == v.item and run[3] % LANES == 0
    return run_of(v, run) if at_once else slot(scratch, number, v)


@device
def send(p, v, run, streams):
    """The way there, from p."""
    (a, b, start, n), target = run, run_of(v, run)
    if not wanted(v) or address_of(p) == address_of(target):
        return
    if v.strides[2] != v.item:
        for j in range(n):
            store(at(v, a, b, start + j), 0, load(p, j, 0))
        return
    j = min(past_boundary(target, 0), n) if streams else 0
    store_some(target, 0, j, load(p, 0, LANES))
    while j + LANES <= n:
        put(target, j, load(p, j, LANES), streams)
        j += LANES
    store_some(target, j, n - j, load(p, j, LANES))


@device
def store_some(p, j, n, v):
    """`store_part`, but of nothing nothing: with masks that would wait for its line, too, and take it to the caches."""
    if n > 0:
        store_part(p, j, n, v)
