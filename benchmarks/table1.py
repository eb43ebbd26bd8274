"""Table 1: the paper's rows beside what was measured; latency is the forward pass of one image of 640 pixels."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from yolov12_plugin.benchmark.results import Results, ResultsError, Row, by_setup, read_results, results_in
from yolov12_plugin.paper.published import TABLE1, Detector, Speed

RESULTS = Path(__file__).resolve().parent / "results"
PAPER = {
    "gflops_paper": "FLOPs (G)",
    "gflops": "built",
    "params_m_paper": "Params (M)",
    "params_m": "built",
    "ap_paper": "AP",
    "ap50_paper": "AP50",
    "ap75_paper": "AP75",
    "latency_ms_paper": "paper's T4 (ms)",
}


def beside(
    published: Sequence[Detector | Speed], built: dict[str, Row]
) -> Iterator[tuple[Any, Row | None, dict[str, Any]]]:
    """The paper's rows, then measured models that are not in its table; each with its built row, names, FLOPs."""
    names = {row.name for row in published}
    for paper, name in [(row, row.name) for row in published] + [(None, name) for name in built if name not in names]:
        row = built.get(name or "")
        about = {
            "model": paper.method if paper else name,
            "name": name,
            "gflops_paper": paper and paper.gflops,
            "gflops": row and round(row.gflops, 1),
        }
        yield paper, row, about


def rows(results: list[Results]) -> list[dict[str, Any]]:
    """The paper's rows, then the measured models that are not in its table; `latency_ms` by setup and precision."""
    columns = {f"{setup}, {precision} (ms)": found for (setup, precision), found in by_setup(results).items()}
    built = {name: row for found in columns.values() for name, row in found.items()}
    table = []
    for paper, row, about in beside(TABLE1, built):
        table.append(
            {
                **about,
                "params_m_paper": paper and paper.parameters_m,
                "params_m": row and round(row.parameters / 1e6, 1),
                "ap_paper": paper and paper.ap,
                "ap50_paper": paper and paper.ap50,
                "ap75_paper": paper and paper.ap75,
                "latency_ms_paper": paper and paper.latency,
                "latency_ms": {
                    setup: round(found[about["name"]].latency.median_ms, 2)
                    for setup, found in columns.items()
                    if about["name"] in found
                },
            }
        )
    return table


def show(cell: Any) -> str:
    if isinstance(cell, dict):
        return "/".join(map(show, cell.values()))
    return "–" if cell is None else str(cell)


def command(about: str, rows: Callable[[list[Results]], list[dict[str, Any]]], paper: dict[str, str]) -> None:
    """Print rows, `paper` naming their columns, and a column for each setup of their `latency_ms`."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--results", type=Path, nargs="+", metavar="FILE", help="default: all of benchmarks/results")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    try:
        results = [read_results(path) for path in args.results] if args.results else results_in(RESULTS)
    except (ResultsError, OSError) as e:
        parser.exit(2, f"Error: {e}\n")
    table = rows(results)
    setups = list(dict.fromkeys(setup for row in table for setup in row["latency_ms"]))
    if not setups:
        paper = {key: title for key, title in paper.items() if title != "built"}
    view = Table("Model", *paper.values(), *setups, box=box.MARKDOWN if args.markdown else box.HEAVY_HEAD)
    view.columns[0].no_wrap = True
    for row in table:
        cells = [row["model"], *(row[key] for key in paper), *(row["latency_ms"].get(setup) for setup in setups)]
        view.add_row(*map(show, cells))
    # Markdown has no cells of several lines, and a file is as wide as it needs to be.
    Console(width=1000 if args.markdown or not sys.stdout.isatty() else None, markup=False).print(view)
    if not setups:
        print("Nothing was measured: the figures are the paper's.")
    for failure in (failure for run in results for failure in run.failures):
        print(f"{failure.model}, {failure.runtime}: {failure.error}")
    if args.json:
        try:
            args.json.write_text(json.dumps(table, indent=2) + "\n")
        except OSError as e:
            parser.exit(2, f"Error: {e}\n")


if __name__ == "__main__":
    command(__doc__, rows, PAPER)
