"""Ctrl-C waits for what must not be left half done: an import of numba, which a second import does not mend, and a
compilation, after which numba no longer knows what arrays are.
"""

import contextlib
import signal
import threading


@contextlib.contextmanager
def held():
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    typed = []
    signal.signal(signal.SIGINT, lambda *what: typed.append(what))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if typed:
            handler(*typed[0])
