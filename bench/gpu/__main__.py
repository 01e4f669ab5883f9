"""Loss + gradient on a GPU against what it can copy and against others, each result checked first, and which goals are
met. Makes a file of figures and a picture of them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from functools import partial
from pathlib import Path

from bench.gpu import goals, machine, plot, show
from bench.gpu.cases import FORMULA

FOLDER = machine.ROOT / "bench" / "results"


def main(arguments: list[str] | None = None) -> int:
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument(
        "--budget", type=float, default=230, metavar="SECONDS", help="what is left after them is not measured"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where gpu-NAME.json and gpu-NAME.png go")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a name of your own for the figures")
    parser.add_argument("--png", type=Path, metavar="FILE", help="and for the picture, which is beside them by default")
    parser.add_argument("--plot", type=Path, nargs=2, metavar=("JSON", "PNG"), help="only draw such a file of figures")
    options = parser.parse_args(arguments)
    if options.plot:
        plot.draw(json.loads(options.plot[0].read_text()), options.plot[1])
        return 0
    if reason := machine.why_not():
        print(f"bench.gpu: {reason}", file=sys.stderr)
        return 1
    return measure(options, began + options.budget)


def measure(options: argparse.Namespace, end: float) -> int:
    from bench.gpu import sections  # with torch and the CUDA backend, which only a GPU needs

    content = {
        "machine": machine.describe(),
        "versions": machine.versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "budget": options.budget,
        "bytes": FORMULA,
        "sections": {},
    }
    path = options.json or options.folder / f"gpu-{machine.slug(content['machine']['gpu'])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    show.head(content)
    for section in sections.SECTIONS:
        found = content["sections"][section.name] = {}
        show.begin(section.name)
        sections.run(section, sections.Clock(end), found, partial(keep, content, path))
        show.end(found)
        keep(content, path)
    show.summary(content)
    try:
        plot.draw(content, options.png or path.with_suffix(".png"))
    except ModuleNotFoundError as error:
        print(f"no picture: {error}")
    return int(goals.went_wrong(content))


def keep(content: dict, path: Path, row: dict | None = None) -> None:
    """Write what there is, after each row, so that a run that is ended leaves its figures."""
    if row is not None:
        show.line(row)
    goals.finish(content)
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
