"""A next-word model of Python's standard library: real logits, real targets, and what the loss costs on them."""

from __future__ import annotations

import math
import re
import statistics
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastsce import cross_entropy_value_and_grad, dispatch

WIDTH = 64  # of a word's embedding
TOKENS = 3_000_000  # more are not read: training sees fewer
RATE = 0.03  # of Adam
ROUNDS = 7  # of the measurement
SAMPLE = 64  # rows checked against float64
BLOCK = 16  # rows NumPy takes at a time, so that its passes over them stay in the CPU's cache


def main(steps: int, vocab: int, batch: int, seed: int, backend: str) -> None:
    """Train, then measure and check."""
    if not 8192 <= vocab <= 32768:
        raise ValueError(f"the vocabulary must have 8192 to 32768 words, got {vocab}")
    with timed("reading the standard library's sources"):
        words, tokens = corpus(vocab)
    print(f"  {len(tokens):,} words, {len(words):,} different ones kept; batches of {batch:,}")
    loss_of = partial(by_fastsce, backend=backend)
    model = Model(len(words), batch, seed)
    random = np.random.default_rng(seed)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        at = random.integers(0, len(tokens) - 1, batch)
        return tokens[at], tokens[at + 1]

    previous, target = draw()
    with timed("first call, which compiles or finds an earlier run's kernels"):
        loss_of(model.predict(previous), target, model.grad)
    train(model, loss_of, draw, steps, math.log(len(words)))
    for word in ("import", "self", "return"):
        print(f'  after "{word}": {" ".join(words[i] for i in model.likely(words.index(word)))}')
    measure(model.predict(previous), target, model.grad, loss_of, thread_count(backend))


def corpus(vocab: int) -> tuple[list[str], np.ndarray]:
    """The most frequent words, <unk> first, and the text as numbers of words."""
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "dist-packages", "test", "tests", "encodings"}
    split = re.compile(r"\w+|[^\w\s]+").findall
    text: list[str] = []
    for path in sorted(root.rglob("*.py")):
        if skipped.isdisjoint(path.relative_to(root).parts):
            text += split(path.read_text(encoding="utf-8", errors="replace"))
        if len(text) > TOKENS:
            break
    if len(set(text)) < vocab:
        raise RuntimeError(f"{root} holds too few Python sources for {vocab} words; use a Python that comes with them")
    words = ["<unk>"] + [word for word, _ in Counter(text).most_common(vocab - 1)]
    number = {word: i for i, word in enumerate(words)}
    return words, np.array([number.get(word, 0) for word in text], np.int64)


class Model:
    """logits = embedding[previous word] @ output, trained by Adam."""

    def __init__(self, vocab: int, batch: int, seed: int):
        random = np.random.default_rng(seed)
        embedding = random.standard_normal((vocab, WIDTH), np.float32)
        embedding[:, 0] = 1  # what it meets in `output` learns how frequent each word is
        output = np.zeros((WIDTH, vocab), np.float32)  # every word is equally likely at first: the loss is ln V
        self.weights = [embedding, output]
        self.momenta = [(np.zeros_like(w), np.zeros_like(w)) for w in self.weights]
        self.logits = np.empty((batch, vocab), np.float32)
        self.grad = np.empty((batch, vocab), np.float32)
        self.steps = 0

    def predict(self, previous: np.ndarray) -> np.ndarray:
        embedding, output = self.weights
        return np.matmul(embedding[previous], output, out=self.logits)

    def learn(self, previous: np.ndarray) -> None:
        """One step of Adam (Kingma and Ba, arXiv:1412.6980) from the gradient in `grad`."""
        embedding, output = self.weights
        by_embedding = np.zeros_like(embedding)
        np.add.at(by_embedding, previous, self.grad @ output.T)
        gradients = [by_embedding, embedding[previous].T @ self.grad]
        self.steps += 1
        rate = RATE * math.sqrt(1 - 0.99**self.steps) / (1 - 0.9**self.steps)
        for w, g, (mean, square) in zip(self.weights, gradients, self.momenta):
            mean += 0.1 * (g - mean)
            square += 0.01 * (g * g - square)
            w -= rate * mean / (np.sqrt(square) + 1e-8)

    def likely(self, word: int) -> list[int]:
        embedding, output = self.weights
        return np.argsort(-(embedding[word] @ output))[:8].tolist()


def train(model: Model, loss_of: Callable[..., Any], draw: Callable, steps: int, start: float) -> None:
    print(f"training: the loss starts from ln V = {start:.4f}")
    spent = 0.0
    with progress(steps) as advance:
        for _ in range(steps):
            previous, target = draw()
            logits = model.predict(previous)
            began = time.perf_counter()
            loss = loss_of(logits, target, model.grad)
            spent += time.perf_counter() - began
            model.learn(previous)
            advance(float(loss))
    print(f"  {spent / steps * 1e3:.1f} ms of each step were loss + gradient, the rest matrix products and Adam")


@contextmanager
def timed(what: str) -> Iterator[None]:
    print(what, end=" ... ", flush=True)
    began = time.perf_counter()
    yield
    print(f"{time.perf_counter() - began:.1f} s", flush=True)


@contextmanager
def progress(steps: int) -> Iterator[Callable[[float], None]]:
    """A progress bar where rich is installed and someone is watching, else some ten lines."""
    try:
        import rich.progress as bars
    except ImportError:
        bars = None
    if bars is None or not sys.stdout.isatty():
        done, began = 0, time.perf_counter()

        def tell(loss: float) -> None:
            nonlocal done
            done += 1
            if done in (1, steps) or done % max(steps // 10, 1) == 0:
                print(f"  step {done:4}/{steps}  loss {loss:.4f}  {time.perf_counter() - began:5.1f} s", flush=True)

        yield tell
        return
    columns = ("  step {task.completed}/{task.total}", bars.BarColumn(), "loss {task.fields[loss]:.4f}")
    with bars.Progress(*columns, bars.TimeElapsedColumn()) as bar:
        task = bar.add_task("training", total=steps, loss=math.nan)
        yield lambda loss: bar.update(task, advance=1, loss=loss)


class Contestant(NamedTuple):
    name: str
    run: Callable[[], Any]
    check: Callable[..., Any] | None = None


def measure(
    logits: np.ndarray, target: np.ndarray, grad: np.ndarray, loss_of: Callable[..., Any], threads: int
) -> None:
    """One table: medians over interleaved rounds, beside a copy of the same bytes, and errors against float64."""
    with ThreadPoolExecutor(threads) as pool:
        contestants = [
            Contestant("fastsce, out=", lambda: loss_of(logits, target, grad), loss_of),
            Contestant("NumPy, in cache-sized blocks", lambda: by_numpy(logits, target, grad), by_numpy),
            Contestant("copy", lambda: copy(logits, grad, pool, threads)),
        ]
        times: dict[str, list[float]] = {c.name: [] for c in contestants}
        for _ in range(ROUNDS):
            for c in contestants:
                time.sleep(0.02)  # the threads of the one before may still be spinning
                began = time.perf_counter()
                c.run()
                times[c.name].append(time.perf_counter() - began)
    medians = {name: statistics.median(t) for name, t in times.items()}
    rows, classes = logits.shape
    size = logits.nbytes
    print(f"\nloss + gradient of {rows:,} x {classes:,} float32 logits ({size / 2**20:.0f} MiB), threads: {threads}")
    print(f"{'':30}{'median':>10}{'x copy':>9}{'GB/s':>8}   largest relative error of loss, gradient")
    for c in contestants:
        t = medians[c.name]
        line = f"{c.name:30}{t * 1e3:7.1f} ms{t / medians['copy']:9.2f}{2 * size / t / 1e9:8.1f}"
        if c.check is not None:
            loss, gradient = errors(logits, target, c.check)
            line += f"   {loss:.1e}, {gradient:.1e}"
        print(line)
    print("GB/s: the logits read once and the gradient written once, over the median. Errors are over")
    print(f"{SAMPLE} rows, as they are and, so that the model is very sure of itself, with their logits times 8;")
    print("6e-08 is what rounding to float32 costs, 1e+00 means that no digit is right. NumPy runs on one thread.")


def thread_count(backend: str) -> int:
    if backend != "cpu":
        return 1
    return dispatch.load("cpu").thread_count()


def copy(source: np.ndarray, to: np.ndarray, pool: ThreadPoolExecutor, threads: int) -> None:
    list(pool.map(np.copyto, np.array_split(to, threads), np.array_split(source, threads)))


def by_fastsce(logits: np.ndarray, target: np.ndarray, out: np.ndarray, **options: Any) -> Any:
    return cross_entropy_value_and_grad(logits, target, out=out, **options).loss


def by_numpy(logits: np.ndarray, target: np.ndarray, out: np.ndarray, reduction: str = "mean") -> Any:
    """The same as well as NumPy can: no temporary but a row's sums, and every pass but the first in the cache."""
    n = len(logits)
    scale = np.float32(1 / n if reduction == "mean" else 1)
    loss = np.empty(n, np.float32)
    for start in range(0, n, BLOCK):
        x, g, y = (a[start : start + BLOCK] for a in (logits, out, target))
        each = np.arange(len(y))
        np.subtract(x, x.max(1, keepdims=True), out=g)
        shifted = g[each, y]
        np.exp(g, out=g)
        total = g.sum(1, keepdims=True)
        loss[start : start + BLOCK] = np.log(total[:, 0]) - shifted
        g *= scale / total
        g[each, y] -= scale
    return loss.mean() if reduction == "mean" else loss


def errors(logits: np.ndarray, target: np.ndarray, run: Callable[..., Any]) -> tuple[float, float]:
    """The largest relative errors of loss and gradient, row by row, over the surest rows and some others."""
    half = min(SAMPLE // 2, len(target))
    reached = logits[np.arange(len(target)), target] - logits.max(1)
    some = np.concatenate([np.argsort(-reached, kind="stable")[:half], np.arange(half)])
    worst_loss = worst_gradient = 0.0
    for sureness in (1, 8):
        x, y = logits[some] * np.float32(sureness), target[some]
        grad = np.empty_like(x)
        loss = run(x, y, grad, reduction="none")
        true_loss, true_grad = in_float64(x, y)
        worst_loss = max(worst_loss, relative(loss, true_loss))
        worst_gradient = max(worst_gradient, relative(grad, true_grad))
    return worst_loss, worst_gradient


def in_float64(logits: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss and gradient as sums of terms of one sign, so that nothing cancels and float64 keeps its digits."""
    each, x = np.arange(len(target)), logits.astype(np.float64)
    largest = x.argmax(1)
    top = x[each, largest]
    e = np.exp(x - top[:, None])
    grad = e / e.sum(1, keepdims=True)
    without_target, without_largest = e.copy(), e
    without_target[each, target] = 0
    grad[each, target] = -without_target.sum(1) / e.sum(1)
    without_largest[each, largest] = 0
    return np.log1p(without_largest.sum(1)) + (top - x[each, target]), grad


def relative(found: np.ndarray, truth: np.ndarray) -> float:
    """The largest relative error, over what is not too small for float32."""
    counts = np.abs(truth) > 1e-30
    return float((np.abs(found[counts] - truth[counts]) / np.abs(truth[counts])).max(initial=0))
