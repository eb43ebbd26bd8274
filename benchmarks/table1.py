"""Table 1: the paper's rows beside what was measured; latency is the forward pass of one image of 640 pixels."""

import argparse
import json
from pathlib import Path

from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.paper.contents import COMPARISONS
from yolov12_plugin.paper.tables import failures, read_all
from yolov12_plugin.show.view import View

RESULTS = Path(__file__).resolve().parent / "results"


def command(name: str, about: str) -> None:
    """Print the rows of a table as `yolov12 paper` has them, without building the networks."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--results", type=Path, nargs="+", metavar="FILE", help="default: all of benchmarks/results")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    table = COMPARISONS[name]
    try:
        results = read_all(args.results or [RESULTS])
        rows = table.rows(results, build=False)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    except (NotRunnable, OSError) as e:
        parser.exit(2, f"Error: {e}\n")
    notes = [] if any(row["latency_ms"] for row in rows) else ["Nothing was measured: the figures are the paper's."]
    View(table.title, table.columns, rows, [*failures(results), *notes]).print(args.markdown)


if __name__ == "__main__":
    command("table1", __doc__)
