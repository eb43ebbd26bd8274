"""Convergence: losses and scores of several Ultralytics runs, one panel each, on one sheet."""

import csv
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from yolov12_plugin.errors import RunError
from yolov12_plugin.show import pictures

CSV = "results.csv"
LOSSES: dict[str, dict[str, Any]] = {"train/": {}, "val/": {"linestyle": "--", "markerfacecolor": "white"}}
LEARNING_RATE = "lr/pg0"  # the other groups of parameters differ by their warm-up at most
FITNESS = ("metrics/mAP50-95", "metrics/accuracy", "metrics/mIoU", "metrics/delta1")  # what best.pt is chosen by


@dataclass(frozen=True, eq=False)
class Run:
    """What one results.csv holds, as arrays of equal length by column, in the order of epochs.

    `torn` is the number of rows that are not whole: a training was killed as it wrote them, or had other columns.
    """

    name: str
    file: Path
    columns: dict[str, np.ndarray]
    torn: int

    @property
    def epochs(self) -> np.ndarray:
        return self.columns["epoch"]

    @property
    def fitness(self) -> np.ndarray | None:
        """What Ultralytics chooses best.pt by, up to a factor; None where the columns do not tell."""
        for prefix in FITNESS:
            found = [values for key, values in self.columns.items() if key.startswith(prefix)]
            if found:
                return np.nan_to_num(np.sum(found, axis=0), posinf=0, neginf=0)
        return None

    @property
    def title(self) -> str:
        """The name, and what a curve does not show: values that are not finite, rows that are torn."""
        drawn = [values for key, values in self.columns.items() if panel_of(key)]
        bad = ~np.all(np.isfinite(drawn), axis=0)
        notes = []
        if bad.any():
            first = int(bad.argmax())
            some = "" if bad[first:].all() else f"in {bad.sum()} of {len(bad)} epochs, "
            notes.append(f"not finite {some}from epoch {self.epochs[first]:g}")
        if self.torn:
            notes.append(f"torn rows: {self.torn}")
        return f"{self.name} ({'; '.join(notes)})" if notes else self.name

    def summary(self) -> dict[str, Any]:
        """Metrics of the last and of the best epoch; None where a value is not finite or no best one is known."""

        def row(i: int) -> dict[str, Any]:
            values = {key: float(v[i]) for key, v in self.columns.items() if key.startswith("metrics/")}
            return {"epoch": int(self.epochs[i])} | {k: v if math.isfinite(v) else None for k, v in values.items()}

        best = None if self.fitness is None else row(int(self.fitness.argmax()))
        about = {"run": self.name, "file": str(self.file), "epochs": len(self.epochs), "torn": self.torn}
        return about | {"last": row(-1), "best": best}


def read_runs(named: Sequence[str], report: Callable[[str], None] | None = None) -> list[Run]:
    """Read runs given as PATH or NAME=PATH, each once; without a NAME, it is as much of the path as tells it apart.

    With `report`, which takes what is wrong with a run line by line, the others are read all the same.

    Raises:
        RunError: one of them is no run; with `report`, none is.
    """
    found: dict[Path, tuple[str, Path, tuple[dict[str, np.ndarray], int]]] = {}
    errors: list[RunError] = []
    for text in named:
        name, path = split(text)
        try:
            file = find(path)
            found.setdefault(file.resolve(), (name, file, read(file)))
        except RunError as e:
            errors.append(e)
    if errors and (report is None or not found):
        raise errors[0]
    for error in errors:
        if report is not None:
            report(f"left out: {error}")
    places = [path.parent if path.name == CSV else path.with_suffix("") for path in found]
    return [Run(name or label(place, places), file, *rows) for place, (name, file, rows) in zip(places, found.values())]


def split(text: str) -> tuple[str, Path]:
    """Name, or none, and path; either may have = in it, so it is the path that is there that decides."""
    signs = [i for i, character in enumerate(text) if character == "="]
    splits = [("", Path(text)), *((text[:i], Path(text[i + 1 :])) for i in signs)]
    return next((pair for pair in splits if pair[1].exists()), splits[1 if signs else 0])


def find(path: Path) -> Path:
    if path.is_dir():
        if not (path / CSV).is_file():
            raise RunError(f"{path} has no {CSV}, which Ultralytics writes after the first epoch: name a run's folder")
        return path / CSV
    if not path.exists():
        raise RunError(f"{path} is not there: name the folder of a run, or its {CSV}")
    return path


def label(place: Path, places: list[Path]) -> str:
    """The end of a path, as long as it takes to be none of the others'."""

    def end(path: Path, parts: int) -> str:
        return str(Path(*path.parts[-parts:]))

    lengths = range(1, len(place.parts))
    ends = (end(place, n) for n in lengths if sum(end(other, n) == end(place, n) for other in places) == 1)
    return next(ends, str(place))


def read(file: Path) -> tuple[dict[str, np.ndarray], int]:
    """Columns of a results.csv, and how many of its rows are torn. A resume replaces the epochs that it repeats.

    Raises:
        RunError: It holds no epoch of a run.
    """
    strange = f"{file} is no {CSV} of Ultralytics: it"
    try:
        header, *lines = list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines())) or [[]]
    except (UnicodeDecodeError, csv.Error) as e:
        raise RunError(f"{strange} is no text") from e
    keys = [key.strip() for key in header]  # padded by older versions
    if not header:
        raise RunError(f"{file} is empty: Ultralytics writes it after the first epoch")
    if "epoch" not in keys:
        raise RunError(f"{strange} lacks the column epoch")
    if not any(map(panel_of, keys)):
        raise RunError(f"{strange} lacks columns as train/box_loss or metrics/mAP50(B)")
    rows: dict[float, list[float]] = {}
    torn = 0
    for line in filter(None, lines):
        try:
            row = [float(cell.strip() or "nan") for cell in line]
        except ValueError:
            row = []
        if len(row) != len(keys) or not math.isfinite(epoch := row[keys.index("epoch")]):
            torn += 1
            continue
        if rows and epoch <= next(reversed(rows)):
            rows = {earlier: values for earlier, values in rows.items() if earlier < epoch}
        rows[epoch] = row
    if not rows:
        raise RunError(f"{file} has no whole row yet: Ultralytics writes one after each epoch")
    return dict(zip(keys, np.array(list(rows.values())).T)), torn


def panel_of(key: str) -> str:
    """Title of the panel in which a column is drawn, empty for none."""
    prefix = next((prefix for prefix in LOSSES if key.startswith(prefix)), None)
    if prefix and "loss" in key:
        return key.removeprefix(prefix)
    if key.startswith("metrics/") and not key.startswith(("metrics/precision", "metrics/recall")):
        return key.removeprefix("metrics/")
    return key if key == LEARNING_RATE else ""


def sheet(runs: Sequence[Run]) -> Figure:
    """Losses (train solid, validation dashed), metrics and learning rate, each run in its colour in all panels."""
    keys = list(dict.fromkeys(key for run in runs for key in run.columns if panel_of(key)))
    kinds = (*LOSSES, "metrics/", "lr/")
    titles = list(dict.fromkeys(panel_of(key) for kind in kinds for key in keys if key.startswith(kind)))
    columns = math.ceil(math.sqrt(len(titles)))
    rows = math.ceil(len(titles) / columns)
    palette = matplotlib.colormaps["tab10" if len(runs) <= 10 else "turbo"]
    colours = [palette(i if len(runs) <= 10 else i / (len(runs) - 1)) for i in range(len(runs))]

    handles = [Line2D([], [], color=colour, label=run.title) for run, colour in zip(runs, colours)]
    if any(panel_of(key) == panel_of(other) for key, other in itertools.combinations(keys, 2)):
        short = any(len(run.epochs) == 1 for run in runs)
        handles += [
            Line2D([], [], color="#444444", label=name, marker="." if short else None, **LOSSES[prefix])
            for name, prefix in (("solid: training", "train/"), ("dashed: validation", "val/"))  # no run is named so
        ]
    width = max(3.6 * columns, 5)
    longest = max(len(str(handle.get_label())) for handle in handles)
    abreast = max(1, min(len(handles), int(width * 72 / (5 * longest + 40))))  # about 5 points a character of size 9
    legend_height = 0.2 * math.ceil(len(handles) / abreast)

    fig = Figure(figsize=(width, 2.6 * rows + legend_height), layout="constrained")
    grid = fig.subplots(rows, columns, squeeze=False).flat
    for ax, title in zip(grid, titles):
        for run, colour in zip(runs, colours):
            for key in (key for key in run.columns if panel_of(key) == title):
                plot(ax, run, key, colour)
        low, high = ax.get_ylim()
        drawn = np.concatenate([line.get_ydata() for line in ax.lines])
        if low < 0 and not (drawn < 0).any():  # a margin below what is never negative, as an mAP of 0
            ax.set_ylim(0, high if (drawn > 0).any() else 1)
        ax.set_title(title)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    for ax in fig.axes[len(titles) :]:
        ax.remove()
    for ax in fig.axes[-columns:]:
        ax.set_xlabel("epoch")
    legend = fig.legend(handles=handles, loc="outside lower center", ncols=abreast, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # folders may be named $x$
    return fig


def plot(ax: Axes, run: Run, key: str, colour: Any) -> None:
    """Draw a column, with gaps where it is not finite, and a marker on what no line leads to."""
    finite = np.isfinite(run.columns[key])
    joined = np.append(finite[1:], False) | np.append(False, finite[:-1])
    values = np.where(finite, run.columns[key], np.nan)
    alone = np.flatnonzero(finite & ~joined).tolist()
    style = LOSSES["val/"] if key.startswith("val/") else {}
    ax.plot(run.epochs, values, color=colour, linewidth=1.4, alpha=0.85, marker=".", markevery=alone, **style)


def write(runs: Sequence[Run], file: Path) -> None:
    """Draw the sheet into a file, of the kind that its suffix names; of an SVG, the same bytes every time.

    Raises:
        NotRunnable: No such folder, or no such kind.
    """
    pictures.write(partial(sheet, runs), file)
