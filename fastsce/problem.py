"""One call, checked and laid out for a backend: NumPy views of its arrays, and what to do with the results."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from fastsce import arrays, check, dispatch
from fastsce.spec import BFLOAT16, Spec

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
NUMBERS = (int, float, complex, np.number)


def number_of(name: str, value: Any) -> np.ndarray:
    """One that is no array's; NumPy would make an object of an integer that 64 bits cannot hold."""
    return check.real(name, np.asarray(check.number(name, value) if type(value) is int else value))


@dataclass
class Call:
    """What every function needs: the caller's logits, who computes, and where results go."""

    given: Any  # the caller's array
    x: np.ndarray  # its memory
    library: Any
    device: str
    backend: ModuleType  # its `chores` are what it does with arrays besides the loss, see `fastsce.host`

    def view(self, name: str, argument: Any) -> np.ndarray:
        """Another argument's memory, which must be on the logits' device."""
        library = arrays.library_of(argument)
        found = library.device(argument)
        if found != self.device and isinstance(argument, NUMBERS):  # they go anywhere
            return self.backend.chores.number(self.x, check.real(name, library.view(argument)))
        if found != self.device:
            raise TypeError(f"{name} is on {found}, but the logits are on {self.device}; move one of them")
        a = library.view(argument)
        if found != "cpu":
            a.home = self.x.home  # type: ignore[attr-defined]  # one call, one stream
        return a

    def real(self, name: str, argument: Any) -> np.ndarray:
        a = self.view(name, argument)
        return self.backend.chores.numbers(a) if a.dtype == BFLOAT16 else check.real(name, a)

    def upstream(self, grad_output: Any, reduction: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """grad_output: one number, or an array of the loss's shape."""
        if grad_output is None:
            return None
        number = isinstance(grad_output, NUMBERS)
        g = number_of("grad_output", grad_output) if number else self.real("grad_output", grad_output)
        if g.shape != ():
            if reduction != "none":
                raise ValueError(f"grad_output must be a number with reduction={reduction!r}, got shape {g.shape}")
            check.same_shape("grad_output", g, shape, "for each loss")
        return g

    def buffer(self, name: str, out: Any, **inputs: np.ndarray | None) -> np.ndarray:
        """Memory for a gradient: `out`, checked to lie on none of the inputs but the logits, or new."""
        if out is None:
            return self.backend.chores.empty_like(self.x)
        array = hasattr(out, "dtype") or hasattr(out, "__cuda_array_interface__")
        library = arrays.library_of(out)
        if library is arrays.NumPy:  # which would make a copy of other things that have a dtype, and write into that
            array = isinstance(out, np.ndarray)
        if not array or not library.mutable:
            raise TypeError(f"{name} of type {type(out).__name__} cannot be written into; leave {name} out")
        return check.out(name, self.view(name, out), self.x, inputs)

    def wrap(self, a: np.ndarray, out: Any = None) -> Any:
        """The result in the caller's library: `out` itself where the caller gave it."""
        if out is not None:
            return arrays.written(out)
        if self.device != "cpu" and (narrower := getattr(self.library, "narrower", lambda dtype: None)(a.dtype)):
            a = self.backend.chores.as_dtype(a, narrower)
        return self.library.wrap(a, self.given)

    @property
    def loss_dtype(self) -> np.dtype:
        return FLOAT64 if self.x.dtype == FLOAT64 else FLOAT32

    def wrap_loss(self, loss: Any, sample_weight: Any = None, labels: Any = None, ignore_index: int = 0) -> Any:
        """One a row, times their rows' weights."""
        return self.wrap(self.backend.finished(loss, sample_weight, labels, ignore_index, self.loss_dtype))

    def wrap_sum(self, losses: np.ndarray | float, normaliser: Any) -> Any:
        """Their sum ÷ normaliser."""
        result = self.backend.chores.empty(self.x, (), self.loss_dtype)
        self.backend.reduce(losses, normaliser, out=result)
        return self.wrap(result)


@dataclass
class Problem(Call):
    """A softmax cross-entropy. What is named here has the class axis last, whatever the caller's order."""

    spec: Spec
    axis: int
    target: np.ndarray | None = None  # labels (*rows), probabilities (*rows, C), or None
    taken: np.ndarray | None = None  # the caller's own target, of which `target` may be a copy
    weight: np.ndarray | None = None  # (C,) float64
    sample_weight: np.ndarray | None = None  # (*rows) float64, times their classes' where a backend has put it there
    normaliser: Any = 1.0  # what the mean divides by, as the backend knows it; 1 for the other reductions

    def __post_init__(self):
        self.logits: np.ndarray = self.classes_last(self.x)
        self.rows: tuple[int, ...] = self.logits.shape[:-1]

    @property
    def labelled(self) -> bool:
        """Whether the target holds labels, one a row."""
        return self.target is not None and self.target.ndim < self.x.ndim

    @property
    def reduced(self) -> bool:
        return self.spec.reduction != "none"

    def classes_last(self, a: np.ndarray) -> np.ndarray:
        """As NumPy's moveaxis, which takes 5 µs where this takes 1."""
        k = self.axis
        return a if k == a.ndim - 1 else a.transpose(*range(k), *range(k + 1, a.ndim), k)

    def row_scale(self, grad_output: Any = None) -> Any:
        """What a row's gradient is multiplied by: sample_weight × grad_output ÷ normaliser, or one number for all."""
        upstream = self.upstream(grad_output, self.spec.reduction, self.rows)
        return self.backend.chores.scale(upstream, self.normaliser, self.sample_weight)

    def gradient_buffer(self, name: str, out: Any) -> np.ndarray:
        return self.buffer(name, out, target=self.taken)

    def forward_backward(self, row_scale, grad=None, hess=None, *, loss, lse) -> tuple[np.ndarray | float, np.ndarray]:
        """Run the backend; loss (without sample_weight) and lse of every row, and whether the caller will see them. In
        place of losses that nobody will see there may be their sum, sample_weight included.
        """
        summed = self.reduced and not loss and hess is None
        loss, lse, total = self.row_numbers(loss), self.row_numbers(lse), None
        if self.x.size:  # no backend is asked to work on nothing
            total = self.backend.forward_backward(
                self.spec,
                self.logits,
                self.target,
                self.weight,
                row_scale,
                loss=loss,
                lse=lse,
                grad=None if grad is None else self.classes_last(grad),
                hess=None if hess is None else self.classes_last(hess),
                summed=summed,
            )
        return loss if total is None else total, lse

    def reduce(self, loss: np.ndarray | float) -> Any:
        """The loss to return, from one loss a row, or from their sum."""
        how = self.sample_weight, self.target if self.labelled else None, self.spec.ignore_index
        if not self.reduced:
            return self.wrap_loss(loss, *how)
        if self.sample_weight is not None and not isinstance(loss, float):
            self.backend.chores.weigh(loss, *how)
        return self.wrap_sum(loss, self.normaliser)

    def row_numbers(self, seen: bool) -> np.ndarray:
        chores = self.backend.chores
        return chores.empty(self.x, self.rows, FLOAT64) if seen else chores.borrow(self.x, self.rows)


def locate(logits: Any, backend: str | None, name: str = "logits") -> tuple[Any, np.ndarray, Any, str, ModuleType]:
    """What a Call begins with: the array, its memory and library, its device and the backend for that."""
    library = arrays.library_of(logits)
    device = library.device(logits)
    module = dispatch.load(dispatch.choose(device, backend))
    return logits, check.floating(name, library.view(logits)), library, device, module


def untargeted(x: Any, axis: int, backend: str | None, name: str = "x") -> Problem:
    """The law without a target: its loss is lse, its gradient the softmax."""
    call = locate(x, backend, name)
    return Problem(*call, Spec(), check.axis(axis, call[1].shape, name))


def prepare(spec: Spec, logits, target, weight, sample_weight, axis, backend, check_targets) -> Problem:
    """Check everything about one cross-entropy call; read the labels, write nothing."""
    call = locate(logits, backend)
    axis = check.axis(axis, call[1].shape)
    check.computable(spec, call[1])
    problem = Problem(*call, spec, axis)
    classes = problem.logits.shape[-1]
    if target is None:
        raise TypeError("target is required: class indices, or class probabilities of the logits' shape")
    t = problem.taken = problem.view("target", target)
    kind = check.target_kind(t, problem.x.shape, problem.rows, axis, spec.ignore_index)
    if weight is not None:
        w = check.same_shape("weight", problem.real("weight", weight), (classes,), "for each class")
        problem.weight = problem.backend.chores.numbers(w)  # a copy: `out` may lie on the caller's
    share = None
    if sample_weight is not None:
        share = problem.real("sample_weight", sample_weight)
        check.same_shape("sample_weight", share, problem.rows, "for each row")
    if kind == "index":
        if t.dtype.kind == "u" and t.dtype.itemsize == 8:  # of either byte order
            check.labels(t)
        problem.target = problem.backend.int64_labels(t)
        summed = spec.reduction == "mean" and spec.denominator is None
        bad, total, problem.weight, problem.sample_weight = problem.backend.scan_labels(
            spec, problem.target, classes, problem.weight, share, summed, check_targets
        )
        if bad >= 0:
            check.bad_label(problem.backend.chores.item(t, bad), bad, t.shape, classes, spec.ignore_index)
    else:
        problem.target = problem.classes_last(t)
        problem.sample_weight = None if share is None else problem.backend.chores.numbers(share)
        total = float(math.prod(problem.rows))
    if spec.reduction == "mean":
        problem.normaliser = total if spec.denominator is None else spec.denominator
    return problem
