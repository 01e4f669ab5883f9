"""Ctrl-C waits for what must not be left half done: an import of numba, which a second import does not mend, and a
compilation, after which numba no longer knows what arrays are.
"""

import contextlib
import os
import signal
import threading


@contextlib.contextmanager
def held():
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    typed, here = [], os.getpid()

    def note(*what):
        if os.getpid() == here:
            typed.append(what)
        else:  # a child that another thread has forked meanwhile
            handler(*what)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, handler)
        if typed:
            handler(*typed[0])
