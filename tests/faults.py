"""What may be wrong with a call. Each fault changes an argument or two, and says how the call must be refused."""

from calls import BINARY, LOSSES, OTHERS, Call
from hostile import Maker

FAULTS = {}  # by name; bad_arguments and bad_outs fill it


def fault(*touches, where=lambda call: True, weight=1):
    """A change of these arguments, for calls of which `where` is true; it returns the errors, or none."""

    def register(change):
        change.touches, change.applies, change.weight = set(touches), where, weight
        FAULTS[change.__name__.replace("_", " ")] = change
        return change

    return register


def put_into(maker: Maker, call: Call) -> None:
    """One fault or two, in arguments of their own."""
    free = {name: change for name, change in FAULTS.items() if change.applies(call)}
    for _ in range(maker.draw.choice((1, 1, 1, 2))):
        if free:
            (name,) = maker.draw.choices(list(free), [change.weight for change in free.values()])
            change = free[name]
            errors = change(maker, call)
            if errors:
                call.errors |= errors
                maker.traits.add(f"fault: {name}")
            free = {n: other for n, other in free.items() if not other.touches & change.touches}


def is_loss(call) -> bool:
    return call.function in LOSSES


def is_binary(call) -> bool:
    return call.function in BINARY


def has_target(call) -> bool:
    return is_loss(call) or is_binary(call)


def has_arrays(call) -> bool:
    return has_target(call) or call.function in OTHERS


def has_classes(call) -> bool:
    """Whether an axis can be given."""
    return call.axis is not None and call.function != "softmax_jacobian"


def takes_out(call) -> bool:
    return has_target(call) and call.function not in ("cross_entropy", "binary_cross_entropy")
