"""Rows of Tables 1, 4, 6 and 7, and of Figures 1 and 4: the paper's, as built here, and as measured."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from yolov12_plugin import published
from yolov12_plugin.benchmark.results import Results, Row, by_setup, read_results, results_in
from yolov12_plugin.errors import NotRunnable, ResultsError
from yolov12_plugin.paper.ablations import train_command
from yolov12_plugin.paper.networks import counts
from yolov12_plugin.published import TABLE1, TABLE3_CPU, TABLE4, TABLE7, Detector, Speed, ours
from yolov12_plugin.training.presets import FOLDER, SCALES, read

OURS = tuple(f"yolov12{scale}" for scale in SCALES)
BASE = "yolov12n"  # what ratios are to
GPUS = ("rtx3080", "a5000", "a6000")
COLUMNS = {"fp32": "fp32", "tf32": "fp32", "fp16": "fp16"}  # of Table 4, by what was measured


def read_all(paths: Iterable[Path]) -> list[Results]:
    """Records of `yolov12 bench --out`: files, and those in folders.

    Raises:
        NotRunnable: one of them is not there, or is none.
        OSError: one of them cannot be read.
    """
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise NotRunnable(f"{path} is not there: it must be what `yolov12 bench --out` wrote")
    try:
        return [run for path in paths for run in (results_in(path) if path.is_dir() else [read_results(path)])]
    except ResultsError as e:
        raise NotRunnable(str(e)) from e


def failures(results: Iterable[Results]) -> list[str]:
    """What was to be measured and was not, and why."""
    return [f"Not measured: {row.model}, {row.runtime}: {row.error}" for run in results for row in run.failures]


def left_out(results: Sequence[Results], name: str) -> list[str]:
    """What of the measured rows a table or figure does not show, in one line a reason."""
    why: dict[str, list[str]] = {}
    latest = by_setup(results)
    over_base = ratios(results)
    for run in results:
        for row in run.rows:
            setup = run.setup(row), row.precision
            about = f"{row.model} ({row.runtime}, {row.precision}, {row.batch} x {row.imgsz})"
            if not row.like_the_paper:
                reason = "they are not of one image of 640 pixels, as all in the paper"
            elif name in ("figure1", "table4") and row.device == "cpu":
                reason = "they were measured on a CPU, and this is of GPUs"
            elif name == "figure4" and row.device != "cpu":
                reason = "they were measured on a GPU, and this is of CPUs"
            elif name == "table4" and row.precision not in COLUMNS:
                reason = "the table is of FP32 and FP16"
            elif latest[setup][row.model] is not row:
                reason = "a later run has the same"
            else:
                if row.model not in over_base.get(", ".join(setup), {}):
                    reason = f"without a ratio, as {BASE} was not timed with them in one run at their size"
                    why.setdefault(reason, []).append(about)
                continue
            why.setdefault(f"left out, as {reason}", []).append(about)
    return [f"Of --results {reason}: {', '.join(dict.fromkeys(rows))}." for reason, rows in why.items()]


def table1(results: Sequence[Results] = (), *, every: bool = True) -> list[dict[str, Any]]:
    """The paper's rows, then the measured models that are not in its table; other detectors not measured by `every`.

    FLOPs (G), parameters (M), AP (%) and latency (ms, T4, TensorRT FP16) of the paper; FLOPs and parameters as built
    here. Ratios of latencies are to YOLOv12-N: the paper's, by setup as `latency_ms`, and `ratio`, which has a place
    for what is measured at once.
    """
    setups = {f"{setup}, {precision}": rows for (setup, precision), rows in by_setup(results).items()}
    over_base = ratios(results)
    table = []
    for paper, name, about, parameters in beside(TABLE1, setups.values(), every):
        table.append(
            {
                **about,
                "params_m_paper": paper and paper.parameters_m,
                "params_m": parameters,
                "ap_paper": paper and paper.ap,
                "ap50_paper": paper and paper.ap50,
                "ap75_paper": paper and paper.ap75,
                "latency_ms_paper": paper and paper.latency,
                "ratio_paper": over(paper and paper.latency, ours("n").latency),
                "ratio": None,
                "latency_ms": {f"{s} (ms)": milliseconds(rows[name]) for s, rows in setups.items() if name in rows},
                "latency_ratio": {setup: found[name] for setup, found in over_base.items() if name in found},
                **commands(name, paper is not None),
            }
        )
    return table


def table4(results: Sequence[Results] = (), *, every: bool = True) -> list[dict[str, Any]]:
    """As `table1`, with latencies (ms) at FP32 and FP16 on the paper's GPUs and on those that measured here.

    Ratios of the paper are by GPU, and of FP32.
    """
    setups: dict[str, dict[str, Row]] = {}
    pairs: dict[str, dict[str, dict[str, float | None]]] = {}
    for (setup, precision), rows in by_setup(results).items():
        column = COLUMNS.get(precision)
        on_gpus = {name: row for name, row in rows.items() if row.device != "cpu" and column}
        setups[f"{setup}, {precision}"] = on_gpus
        for name, measured in on_gpus.items():
            pair = pairs.setdefault(name, {}).setdefault(f"{setup} (ms)", {"fp32": None, "fp16": None})
            pair[str(column)] = milliseconds(measured)
    over_base = ratios(results)
    base = next(row for row in TABLE4 if row.name == BASE)
    table = []
    for paper, name, about, parameters in beside(TABLE4, setups.values(), every):
        table.append(
            {
                **about,
                "params_m": parameters,
                **{f"{gpu}_ms_paper": paper and dict(zip(("fp32", "fp16"), getattr(paper, gpu))) for gpu in GPUS},
                "ratio_paper": paper and {gpu: over(getattr(paper, gpu)[0], getattr(base, gpu)[0]) for gpu in GPUS},
                "ratio": None,
                "latency_ms": pairs.get(name, {}),
                "latency_ratio": {s: over_base[s][name] for s in setups if name in over_base.get(s, {})},
                "bench": [f"{bench(name)} --out fp32.json", f"{bench(name)} --half --out fp16.json"],
            }
        )
    return table


def beside(
    printed: Sequence[Detector | Speed], measured: Iterable[Mapping[str, Row]], every: bool
) -> Iterator[tuple[Any, Any, dict[str, Any], float | None]]:
    """The paper's rows, and measured models that are none of them: row of the paper, name, names and FLOPs, parameters.

    FLOPs (G) and parameters (M) are those built here, of what is not in the paper, as measured.
    """
    found = {name: row for rows in measured for name, row in rows.items()}
    names = {row.name for row in printed}
    shown = [(row, row.name) for row in printed if every or row.name in found or row.name in OURS]
    for paper, name in [*shown, *((None, name) for name in found if name not in names)]:
        about = {"model": paper.method if paper else name, "name": name, "gflops_paper": paper and paper.gflops}
        if name is None:
            yield paper, name, about | {"gflops": None}, None
            continue
        gflops, parameters = counts(name) if paper else (found[name].gflops, found[name].parameters)
        yield paper, name, about | {"gflops": round(gflops, 1)}, round(parameters / 1e6, 1)


def ratios(results: Iterable[Results]) -> dict[str, dict[str, float]]:
    """Latency over YOLOv12-N's of the same run, by setup and model; of two runs of the same, the later.

    They are the ratios of `yolov12 bench`, medians over the rounds, and the very same where YOLOv12-N came first.
    """
    found: dict[str, dict[str, float]] = {}
    for run in sorted(results, key=lambda run: run.created):
        for (setup, precision), rows in by_setup([run]).items():
            if BASE in rows and (base := rows[BASE].ratio):
                ratio = {name: round(row.ratio / base, 2) for name, row in rows.items() if row.ratio}
                found.setdefault(f"{setup}, {precision}", {}).update(ratio)
    return found


def milliseconds(row: Row) -> float:
    return round(row.latency.median_ms, 2)


def over(latency: float | None, base: float | None) -> float | None:
    return round(latency / base, 2) if latency and base else None


def commands(name: str | None, in_paper: bool = True) -> dict[str, str | None]:
    """What gives a network's AP, by a training as the paper's or by published weights, and its latency on a T4."""
    if name is None or not in_paper:
        return {"train": None, "evaluate": None, "bench": None}
    return {
        "train": train_command(name) if name and name in OURS else None,
        "evaluate": evaluate(name),
        "bench": f"{bench(name)} --half --out t4.json",
    }


def evaluate(name: str) -> str:
    """Scores a network's published weights."""
    return f"yolov12 coco {name}.pt --data coco.yaml"


def bench(name: str, runtime: str = "tensorrt") -> str:
    """Measures a network beside YOLOv12-N."""
    return f"yolov12 bench {' '.join(dict.fromkeys((BASE, name)))} --runtime {runtime}"


def figure1(results: Sequence[Results] = (), *, every: bool = True) -> list[dict[str, Any]]:
    """As `table1`, of what GPUs measured."""
    return table1(on(results, cpu=False), every=every)


def figure4(results: Sequence[Results] = (), *, every: bool = True) -> list[dict[str, Any]]:
    """As `table1`, of what processors measured; the paper's latency (ms) and its ratio are those of Table 3's CPU."""
    cpu = {row.name: row.with_area for row in TABLE3_CPU}
    table = table1(on(results, cpu=True), every=every)
    for row in table:
        latency = cpu.get(row["name"])
        command = row["bench"] and f"{bench(row['name'], 'onnxruntime')} --out cpu.json"
        row |= {"latency_ms_paper": latency, "ratio_paper": over(latency, cpu[BASE]), "bench": command}
    return table


def on(results: Iterable[Results], cpu: bool) -> list[Results]:
    """What was measured on processors, or on GPUs."""
    return [replace(run, rows=[row for row in run.rows if (row.device == "cpu") == cpu]) for run in results]


def table6() -> list[dict[str, Any]]:
    """AP (%) of each scale on COCO val, also by size of the objects, and what trains and scores it."""
    keys = ["ap_paper", "ap50_paper", "ap75_paper", *(f"ap_{size}_paper" for size in ("small", "medium", "large"))]
    table = []
    for scale in SCALES:
        name = f"yolov12{scale}"
        run = {key: value for key, value in commands(name).items() if key != "bench"}
        table.append({"model": ours(scale).method, "name": name, **dict(zip(keys, published.table6(scale))), **run})
    return table


def table7() -> list[dict[str, Any]]:
    """The hyperparameters as the paper prints them and as the presets set them, by scale, and whether they agree."""
    presets = {scale: read(FOLDER / f"yolov12{scale}-coco.yaml") for scale in SCALES}
    paper = {scale: published.table7(scale) for scale in SCALES}
    return [
        {
            "hyperparameter": row.name,
            "paper": dict(zip(SCALES, row.values)),
            "argument": row.argument,
            "preset": {scale: presets[scale][row.argument] for scale in SCALES},
            "equal": all(presets[scale][row.argument] == paper[scale][row.argument] for scale in SCALES),
        }
        for row in TABLE7
    ]
