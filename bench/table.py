"""Put a result into README.md: python -m bench.table bench/results/FILE.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.cases import CASES
from bench.providers import PEERS

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- figures: made by bench/table.py -->", "<!-- end of figures -->"


def table(results: dict, source: str) -> str:
    names = ["copy", "stream copy", "fastsce, out=", "fastsce, fresh", *PEERS, "NumPy"]
    lines = [
        f"Medians in milliseconds, {results['machine']['cpu']}, {results['machine']['threads']} threads, float32; "
        + ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        + f". From `{source}`.",
        "",
        "| batch | " + " | ".join(names) + " | × copy | × fastest peer |",
        "|---|" + "---|" * (len(names) + 2),
    ]
    for case in CASES:
        found = {name: f["median"] for name, f in results["seconds"][case.name].items()}
        ours, best = found["fastsce, out="], min(found[name] for name in PEERS)
        cells = [f"{found[name] * 1e3:.2f}" for name in names]
        ratios = [f"{ours / found['copy']:.2f}", f"{best / ours:.1f}"]
        lines.append(f"| {case.rows} × {case.classes} | " + " | ".join(cells + ratios) + " |")
    return "\n".join(lines)


def main() -> None:
    path = Path(sys.argv[1])
    text = README.read_text()
    before, rest = text.split(START)
    after = rest.split(END)[1]
    README.write_text(f"{before}{START}\n\n{table(json.loads(path.read_text()), path.as_posix())}\n\n{END}{after}")


if __name__ == "__main__":
    main()
