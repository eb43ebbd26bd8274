"""Figures 1 and 4: the paper's numbers, and over them what was measured, each by the device it was measured on."""

import argparse
from functools import cache, partial
from pathlib import Path

from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.paper.figures import FIGURES
from yolov12_plugin.paper.tables import read_all
from yolov12_plugin.show import pictures

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, nargs="+", metavar="FILE", help="default: all of benchmarks/results")
    parser.add_argument("--out", type=Path, default=HERE / "figures", metavar="FOLDER")
    args = parser.parse_args()
    try:
        results = read_all(args.results or [HERE / "results"])
        args.out.mkdir(parents=True, exist_ok=True)
        for name, draw in FIGURES.items():
            once = cache(partial(draw, results))
            for suffix in "svg", "png":
                pictures.write(once, args.out / f"{name}.{suffix}")
    except (NotRunnable, OSError) as e:
        parser.exit(2, f"Error: {e}\n")


if __name__ == "__main__":
    main()
