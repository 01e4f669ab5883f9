"""Whether this process is the child of a fork: it has none of the threads that its parent started.

Imported with the package, for a fork may come before the first call.
"""

import os

child = False


def note():
    global child
    child = True


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=note)
