"""Each table and figure of the paper: its rows, the titles of their columns, and what is said below them."""

from collections.abc import Mapping, Sequence
from typing import Any

from yolov12_plugin.benchmark.results import Results
from yolov12_plugin.paper import ablations, figures, tables
from yolov12_plugin.paper.networks import Measurement
from yolov12_plugin.published import TABLE3_CUDA
from yolov12_plugin.show.view import EACH, View

FLOPS = {"gflops_paper": "FLOPs (G)", "gflops": "FLOPs built"}
PARAMETERS = {"params_m_paper": "Params (M)", "params_m": "Params built"}
APS = {"ap_paper": "AP", "ap50_paper": "AP50", "ap75_paper": "AP75"}
SIZES = {f"ap_{size}_paper": f"AP {size}" for size in ("small", "medium", "large")}
LATENCY = {"latency_ms_paper": "T4 (ms)", "ratio_paper": "ratio"}
MEASURED = {"ratio": "ratio here", "latency_ms": EACH, "latency_ratio": f"{EACH}: ratio"}


AP_HERE = (
    f"AP needs training on COCO, by the paper on 8 GPUs: `{ablations.train_command('yolov12n')}`; other scales "
    f"likewise. The authors' weights: `{tables.evaluate('yolov12n')}`."
)
OURS = "yolov12{n,s,m,l,x}"  # as shells have it
HERE = ("gflops", "params_m", "ratio", "latency_ms")  # not the paper's
COMPARISONS = {  # title, columns and notes of the rows that `tables` has by the same name
    "table1": (
        "Table 1: YOLOv12 beside other detectors",
        {"model": "Model", **FLOPS, **PARAMETERS, **APS, **LATENCY, **MEASURED},
        (
            AP_HERE,
            f"Latency, on a T4: `yolov12 bench {OURS} --runtime tensorrt --half --out t4.json`, then `yolov12 paper "
            "table1 --results t4.json`.",
        ),
    ),
    "table4": (
        "Table 4: latency at FP32/FP16",
        {
            "model": "Model",
            **FLOPS,
            "params_m": "Params (M) built",
            "rtx3080_ms_paper": "RTX 3080 (ms)",
            "a5000_ms_paper": "A5000 (ms)",
            "a6000_ms_paper": "A6000 (ms)",
            "ratio_paper": "ratios, FP32",
            **MEASURED,
        },
        (
            f"Latency, on a GPU: `yolov12 bench {OURS} --runtime tensorrt --out fp32.json`, again with `--half --out "
            "fp16.json`, then `yolov12 paper table4 --results fp32.json fp16.json`.",
        ),
    ),
    "figure1": (
        "Figure 1: AP against latency and FLOPs",
        {"model": "Model", "ap_paper": "AP", **LATENCY, **FLOPS, **MEASURED},
        (
            AP_HERE,
            f"Latency, on a T4: `yolov12 bench {OURS} --runtime tensorrt --half --out t4.json`, then `yolov12 paper "
            "figure1 --results t4.json`.",
        ),
    ),
    "figure4": (
        "Figure 4: AP against parameters and latency on CPUs",
        {"model": "Model", "ap_paper": "AP", **PARAMETERS, **LATENCY, "latency_ms_paper": "i7-10700K (ms)", **MEASURED},
        (
            AP_HERE,
            f"Latency: `yolov12 bench {OURS} --runtime onnxruntime --out cpu.json`, then `yolov12 paper figure4 "
            "--results cpu.json`. The paper prints its own in Table 3, of N, S and X.",
        ),
    ),
}


def compare(
    name: str, results: Sequence[Results] = (), every: bool = False, measurement: Measurement | None = None
) -> View:
    """Tables 1 and 4, Figures 1 and 4: YOLOv12, and with `every` all detectors, beside what `results` measured."""
    title, columns, said = COMPARISONS[name]
    rows = getattr(tables, name)(results, every=every)
    if measurement:
        runs = {row["name"]: (row["name"], "auto") for row in rows if row["name"] and row["gflops_paper"]}
        found = measurement.ratios({tables.BASE: (tables.BASE, "auto")} | runs, tables.BASE)
        for row in rows:
            row["ratio"] = found.get(row["name"])
    notes = [say_source(columns, rows), *said, say_ratio("YOLOv12-N", measurement)]
    if any(row["gflops"] is None for row in rows):
        notes.append("What has no FLOPs here, Ultralytics does not have, or not as the paper's network.")
    if any((row["name"] or "").startswith("yolov9") for row in rows):
        notes.append("Ultralytics' YOLOv9 does not group the convolutions of its boxes, which adds 0.5 G.")
    return View(title, columns, rows, [*notes, *tables.left_out(results, name), *tables.failures(results)])


def say_source(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Which of the columns that are shown the paper prints, and which were made or measured here."""
    shown = [key for key in columns if key.endswith("_paper") or key in HERE]
    shown = [key for key in shown if any(row.get(key) not in (None, {}) for row in rows)]
    paper = ", ".join(columns[key] for key in shown if key not in HERE)
    here = ", ".join(columns[key].replace(EACH, "what names a machine") for key in shown if key in HERE)
    return f"From the paper: {paper}. " + (
        f"Made or measured here: {here}." if here else "Nothing of it is measured here."
    )


def say_ratio(base: str, measurement: Measurement | None) -> str:
    return f"ratio: of latency, to {base}; {f'here: {measurement}' if measurement else '--measure measures it here'}."


def vary(name: str, measurement: Measurement | None = None) -> View:
    """An ablation: Tables 2, 3 and 5a to 5h.

    Raises:
        NotRunnable: there is no such table.
    """
    table = ablations.ablation(name)
    rows = [{"table": table.name, **row} for row in ablations.rows(table.name, measurement)]
    columns = {
        "variant": "Variant",
        "model": "Model",
        **FLOPS,
        **PARAMETERS,
        "converges_paper": "Converges",
        "ap_paper": "AP",
        **LATENCY,
        "ratio": "ratio here",
    }
    if table.name == "table3":
        for row, cuda in zip(rows, TABLE3_CUDA, strict=True):
            row |= {
                f"cuda_{precision}_ms_paper": dict(zip(("rtx3080", "a5000"), getattr(cuda, precision)))
                for precision in ("fp32", "fp16")
            }
        columns |= {"latency_ms_paper": "i7-10700K (ms)", "ratio_paper": "ratio"}
        columns |= {f"cuda_{p}_ms_paper": f"3080/A5000 {p.upper()} (ms)" for p in ("fp32", "fp16")}
    notes = [say_source(columns, rows), *([table.note] if table.note else [])]
    trained = [row for row in rows if row["ap_paper"] or row["converges_paper"] is not None]
    if trained:
        what = "AP and convergence need" if trained[0]["converges_paper"] is not None else "AP needs"
        notes.append(f"{what} training on COCO: `{trained[0]['train']}`; other rows by their own model, see --json.")
    if len({(row["model"], row["backend"]) for row in rows}) > len({variant.scale for variant in table.variants}):
        notes.append(say_ratio("YOLOv12 of the same scale", measurement))
    return View(f"Table {table.name.removeprefix('table')}: {table.title}", columns, rows, notes)


def table6() -> View:
    columns, rows = {"model": "Model", **APS, **SIZES}, tables.table6()
    return View("Table 6: AP of YOLOv12 on COCO val (%)", columns, rows, [say_source(columns, rows), AP_HERE])


def table7() -> View:
    columns = {
        "hyperparameter": "Hyperparameter",
        "paper": "Paper, N/S/M/L/X",
        "argument": "Argument",
        "preset": "Preset, N/S/M/L/X",
        "equal": "Equal",
    }
    notes = [
        f"The presets are `cfg={OURS}-coco.yaml`. lrf is a share of lr0, cos_lr no linear decay; batch is of all GPUs.",
        "Also by the paper: 8 GPUs (`device=0,1,2,3,4,5,6,7`), and Albumentations (`pip install albumentations`).",
    ]
    return View("Table 7: hyperparameters", columns, tables.table7(), notes)


def figure5() -> View:
    columns = {"model": "Model", "layer": "Layer", "module": "Module", "channels": "Channels", "stride": "Stride"}
    notes = [f"Their heat maps, by published weights: `{figures.HEATMAP} SOURCE`, or `yolov12 paper figure5 SOURCE`."]
    return View("Figure 5: the third stage of the X models", columns, figures.figure5(), notes)
