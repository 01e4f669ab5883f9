"""A result as files: JSON, CSV, plots, and a page of HTML that holds all of it."""

from __future__ import annotations

import json
from pathlib import Path


def write(content: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(content, indent=1) + "\n")
