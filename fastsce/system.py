"""What is installed here and what it can do; and compiling ahead of the first call."""

from __future__ import annotations


def show_versions() -> None: ...


def warmup() -> None: ...
