"""Write what README.md and docs/ show of records and of tables in the code: python benchmarks/pages.py

Each stands between two marks, `<!-- name:begin -->` and `<!-- name:end -->`, and is made by the function of that name.
"""

import json
import re
import statistics
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conformance import table  # noqa: E402

from yolov12_plugin.deploy.accuracy import Accuracy  # noqa: E402
from yolov12_plugin.models import MODELS, RELEASES, Model  # noqa: E402
from yolov12_plugin.paper.contents import vary  # noqa: E402
from yolov12_plugin.published import YOLO26  # noqa: E402
from yolov12_plugin.registry import PATCHES  # noqa: E402
from yolov12_plugin.show.tables import kernels, latencies  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"<!-- (?P<name>[\w-]+):begin -->.*?<!-- (?P=name):end -->", re.DOTALL)
RUNTIMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch": "PyTorch",
}
SETUPS = {  # the page's words for those of the record
    "Table 7, batch 16": "Table 7 at batch 16",
    "finetune preset": "the finetune preset",
    "finetune preset, its own model": "the finetune preset, its own model",
}


TRAINED_ON = {"detect": "COCO", "segment": "COCO", "classify": "ImageNet"}
ACCURACIES = {  # a model card's words for the fields of a Model
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "AP of masks": "ap_mask",
    "top-1": "top1",
    "top-5": "top5",
}
FORMAT_STEPS = "exported", "loaded", "verified"


def record(name: str) -> Any:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))


def rows(*lines: Iterable[object]) -> str:
    """Lines of cells, the first of which are the heads."""
    head, *others = [f"| {' | '.join(map(str, cells))} |" for cells in lines]
    rule = f"|{'---|' * (head.count('|') - 1)}"
    return "\n".join(["", head, rule, *others, ""])


def listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def detectors() -> str:
    """The models of the paper."""
    head = "model", "AP, COCO val", "T4, TensorRT FP16 (ms)", "params (M)", "FLOPs (G)"
    figures = [(m.name, m.ap, m.latency, m.parameters_m, m.gflops) for m in MODELS.values() if m.release == "v1.0"]
    return rows(head, *figures)


def models() -> str:
    head = "model", "pixels", "params (M)", "FLOPs (G)", "AP on COCO val, or accuracy on ImageNet", "T4, ms", "source"
    lines = []
    for m in MODELS.values():
        if m.ap_mask:
            accuracy = f"{m.ap} of boxes, {m.ap_mask} of masks"
        else:
            accuracy = f"{m.top1} top-1, {m.top5} top-5" if m.top1 else m.ap or "not trained"
        latency = f"{m.latency:.2f}" if m.latency else "not timed"
        lines.append((m.name, m.imgsz, m.parameters_m, m.gflops, accuracy, latency, source(m)))
    return rows(head, *lines)


def source(model: Model) -> str:
    """Who published the figures of a model."""
    if not model.weights:
        return "counted here"
    return "the paper's Table 1" if model.release == "v1.0" else "the authors' README"


def cards() -> str:
    """A model card for each release, and for each kind of models that has none."""
    kinds = defaultdict(list)
    for model in MODELS.values():
        kinds[model.release].append(model)
    return "\n" + "\n".join(map(card, kinds.values()))


def card(scales: Sequence[Model]) -> str:
    """What is said of all scales, from the YAML's first comment and the table of models, and a line for each."""
    model = scales[0]
    name = model.name.replace(model.scale, "", 1)
    text = (ROOT / f"cfg/models/{name}.yaml").read_text(encoding="utf-8")
    about = [line[2:].rstrip(".") + "." for line in text.partition("\n\n")[0].splitlines() if "://" not in line]
    by = f"by the authors on {TRAINED_ON[model.task]}" if model.weights else "no weights were released"
    facts = [
        f"- **task**: {model.task}, {yaml.safe_load(text)['nc']} classes as shipped, images of {model.imgsz} pixels",
        f"- **trained**: {by}",
        f"- **accuracy**: {source(model) + ', not measured here' if model.weights else 'not known'}",
        f"- **licence**: AGPL-3.0{', of the code and of the weights' if model.weights else ''}",
    ]
    metrics = {title: field for title, field in ACCURACIES.items() if getattr(model, field) is not None}
    head = ["scale", "parameters in training", *metrics, "weights"]
    accuracies = [[getattr(m, field) for field in metrics.values()] for m in scales]
    lines = [(m.scale.upper(), f"{m.parameters:,}", *found, link(m)) for m, found in zip(scales, accuracies)]
    return "\n".join([f"### {name}", "", " ".join(about), "", *facts, rows(head, *lines)])


def link(model: Model) -> str:
    return f"[{model.weights}]({RELEASES}/{model.weights})" if model.weights else "none"


def patches() -> str:
    lines = []
    for p in PATCHES:
        others = ", ".join(f"`{module}`" for module in p.reexports)
        also = f"; also where it is imported by name: {others}" if others else ""
        lines.append((f"`{p.owner}.{p.attribute}`", p.why + also))
    return rows(("attribute", "why"), *lines)


def stability() -> str:
    lines = []
    for row in record("stability")["rows"]:
        if row["scale"] in "lx" and row["dtype"] == "float32":
            loss, norm = row["loss"], row["gradient_norm"]
            residual = "0.01" if row["residual"] == "default" else row["residual"]
            ends = f"{loss[0]:.1f}", f"{loss[-1]:.1f}", f"{norm[0]:.0f}", f"{max(norm):.0f}"
            lines.append((row["scale"].upper(), residual, *ends))
    return rows(("", "residual", "loss, first", "last", "gradient norm, first", "greatest"), *lines)


def finetune() -> str:
    setups = record("finetune")["setups"]
    seeds = [f"seed {run['seed']}" for run in next(iter(setups.values()))["runs"]]
    lines = [(SETUPS[name], *(f"{run['mAP50-95']:.2f}" for run in s["runs"])) for name, s in setups.items()]
    return rows(("mAP50-95", *seeds), *lines)


def shapes() -> str:
    (setup,) = record("shapes")["setups"].values()
    seeds, figures = zip(*((str(run["seed"]), f"{run['mAP50']:.2f}") for run in setup["runs"]))
    return f"mAP50 {listed(figures)} on the 16 validation images with seeds {listed(seeds)}"


def kills() -> str:
    on, off = record("kills")["guard_on"], record("kills")["guard_off"]
    return f"with the guard {on['lost']} of {on['kills']} trainings were lost, without it {off['lost']}"


def training() -> str:
    differ, by_rounding = (
        record("training")[key]["train"]["overall"] for key in ("difference", "difference_by_rounding")
    )
    return f"by at most {100 * differ:.1f} %, and stock's from its own by {100 * by_rounding:.1f} %"


def training_shapes() -> str:
    best = {name: f"{run['mAP50']:.2f}" for name, run in record("training-shapes")["best"].items()}
    return f"mAP50 {best['plugin']} by the plugin, {best['stock']} by stock and {best['stock-sse41']} by stock"


def suite() -> str:
    data = record("ultralytics-suite")
    off, on = (Counter(data[column].values()) for column in ("off", "on"))
    lines = [(outcome, off[outcome], on[outcome]) for outcome in ("passed", "failed", "skipped")]
    said = f"Ultralytics {data['versions']['ultralytics']}, without a network"
    return rows((said, "plugin off, stock's YOLO12", "plugin on, YOLOv12"), *lines)


def aot() -> str:
    return f"\n{kernels(record('aot')).markdown()}\n"


def aot_int8() -> str:
    """Kernels in FP16 and INT8, a line for each model and who built it."""
    found = {(r["model"], r["build"], r["capability"], r["precision"]): r for r in record("aot-int8")["rows"]}
    lines = []
    for model, build in dict.fromkeys(key[:2] for key in found):
        t4, a10 = ({p: found[model, build, capability, p] for p in ("fp16", "int8")} for capability in ("sm75", "sm86"))
        row = a10["int8"]
        fused = f"{row['fused_attentions']} of {row['attentions']}" if row["attentions"] else "–"
        counts = (f"{of['fp16']['kernels']} → {of['int8']['kernels']}" for of in (a10, t4))
        lines.append((model, build, *counts, row["int8_convolutions"], fused))
    head = (
        "FP16 → INT8",
        "built by",
        "kernels, sm86",
        "kernels, sm75",
        "INT8 convolutions, sm86",
        "fused attentions, sm86",
    )
    return rows(head, *lines)


def int8() -> str:
    """What a model loses in INT8 on each runtime, and how long it then takes."""
    measured = record("int8")
    judged = {(row["model"], row["runtime"]): row for row in measured["accuracy"]["rows"] if "int8_layers" in row}
    int8 = [row for row in measured["speed"]["rows"] if row.get("precision") == "int8" and "against_fp32" in row]
    timed = {(row["model"], row["runtime"]): row for row in int8}
    lines = []
    for model in dict.fromkeys(model for model, _ in judged):
        cells = []
        for runtime in "onnxruntime", "openvino":
            row = judged[model, runtime]
            found = Accuracy(**row["verification"]["accuracy"])
            before = f"{100 * found.model:.1f}"
            cells.append(found.lost)
            cells.append("{} of {}".format(*row["int8_layers"]))
            cells.append(f"{timed[model, runtime]['against_fp32']:.2f}" if (model, runtime) in timed else "")
        lines.append((model, before, *cells))
    of = [
        f"{what}, {name}"
        for name in ("ONNX Runtime", "OpenVINO")
        for what in ("points lost (95 %)", "INT8 layers", "time")
    ]
    return rows(("", "mAP50-95", *of), *lines)


def int8_neon() -> str:
    """What a model loses in INT8 on photographs; stock's was measured in a run of its own."""
    return lost(record("int8-neon")["rows"] + record("int8-neon-stock")["rows"])


def int8_masks() -> str:
    """What a segmenter's masks lose in INT8."""
    return lost(record("int8")["masks"]["rows"])


def lost(measured: Sequence[dict[str, Any]]) -> str:
    found = [row for row in measured if "int8_layers" in row]
    judged = {(row["model"], row["runtime"]): Accuracy(**row["verification"]["accuracy"]) for row in found}
    lines = []
    for model in dict.fromkeys(model for model, _ in judged):
        on = [judged[model, runtime] for runtime in ("onnxruntime", "openvino")]
        lines.append((model, f"{100 * on[0].model:.1f}", *(accuracy.lost for accuracy in on)))
    head = listed(sorted({accuracy.metric for accuracy in judged.values()}))
    return rows(("", head, "points lost (95 %), ONNX Runtime", "points lost (95 %), OpenVINO"), *lines)


def int8_speed() -> str:
    """Time in INT8 and FP32 over YOLO11n's."""
    measured = [row for row in record("int8")["speed"]["rows"] if "latency" in row and row["precision"] != "fp16"]
    ratios = {(row["model"], row["runtime"], row["precision"]): row["ratio"] for row in measured if "stored" not in row}
    lines = []
    for model in dict.fromkeys(model for model, *_ in ratios):
        cells = []
        for key in product(("onnxruntime", "openvino"), ("fp32", "int8")):
            ratio = ratios.get((model, *key))
            cells.append(f"{ratio / ratios[('yolo11n', *key)]:.2f}" if ratio else "refused")
        lines.append((model, *cells))
    head = [f"{runtime}, {precision}" for runtime in ("ONNX Runtime", "OpenVINO") for precision in ("FP32", "INT8")]
    return rows(("time over YOLO11n's", *head), *lines)


def int8_unsigned() -> str:
    """Time, layers and loss on ONNX Runtime with activations of 0..255."""
    measured = record("int8")["unsigned"]
    judged, timed = (
        {row["model"]: row for row in measured[imgsz]["rows"] if row.get("precision") == "int8"}
        for imgsz in ("160", "640")
    )
    lines = []
    for model, row in judged.items():
        found = Accuracy(**row["verification"]["accuracy"])
        layers = "{} of {}".format(*row["int8_layers"])
        lines.append((model, found.lost, layers, f"{timed[model]['against_fp32']:.2f}"))
    return rows(("0..255", "points lost (95 %)", "INT8 layers", "time of FP32's"), *lines)


def qat() -> str:
    lines = [
        (r["model"], *(f"{100 * r[key]:.1f}" for key in ("float", "ptq", "qat"))) for r in record("int8")["training"]
    ]
    return rows(("mAP50-95", "FP32", "INT8 after training", "INT8 in training"), *lines)


def onnx_time() -> str:
    """Milliseconds by what is computed."""
    found = record("onnx-time")["milliseconds"]
    kinds = sorted(found["yolov12n"], key=lambda what: -found["yolov12n"][what])
    lines = [(what, *(f"{of.get(what, 0):.1f}" for of in found.values())) for what in kinds]
    return rows(("ms of an image", *found), *lines, ("all", *(f"{sum(of.values()):.1f}" for of in found.values())))


def fused() -> str:
    """Cells of the table of stock, fork and plugin."""
    found = {
        row["build"]: row for row in record("aot")["rows"] if (row["model"], row["capability"]) == ("yolov12n", "sm75")
    }
    words = "{fused_attentions} of {attentions}, {kernels} kernels"
    stock, ours = (words.format(**found[by]) for by in ("stock", "plugin"))
    return f"{stock} | not measured | {ours}"


def cpu() -> str:
    return f"\n{latencies(record('cpu')).markdown()}\n"


def cpu_large() -> str:
    return f"\n{latencies(record('cpu-large')).markdown()}\n"


def e2e() -> str:
    """A line for each model: the network, and what it takes with suppression where it needs that."""
    found = record("cpu-e2e")["rows"]
    total = {row["model"]: (row["latency_nms"] or row["latency"])["median_ms"] for row in found}
    lines = []
    for row in found:
        name, suppression = row["model"], "yes" if row["latency_nms"] else "none needed"
        lines.append((name, suppression, f"{total[name]:.1f}", f"{total[name] / total['yolov12n']:.2f}"))
    return rows(("", "suppression", "ms, all", "of YOLOv12-N"), *lines)


def mean_of(values: Sequence[float], digits: int = 1) -> str:
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def neon() -> str:
    return trained_on_neon("neon")


def neon_short() -> str:
    return trained_on_neon("neon-60")


def trained_on_neon(name: str) -> str:
    """A line for each setup: AP (%) of the seeds, their mean and standard deviation, on val and on other forests."""
    lines = []
    sizes = "small", "medium", "large"
    columns = [("val", "AP50"), ("val", "AP"), *(("val", f"AP_{size}") for size in sizes)]
    columns += [("test", "AP50"), ("test", "AP")]
    for setup, trained in record(name)["setups"].items():
        found = [[run[split][metric] for run in trained["runs"]] for split, metric in columns]
        lines.append((setup, *("none there" if None in values else mean_of(values) for values in found)))
    return rows(
        ("", "AP50", "AP", *(f"AP {size}" for size in sizes), "AP50, other forests", "AP, other forests"), *lines
    )


def tasks() -> str:
    """A line for each task and residual: how many of its trainings collapsed or never learned, and the metric (%)."""
    lines = []
    for task, entry in record("tasks")["tasks"].items():
        metric = entry["metric"].removeprefix("metrics/").replace("accuracy_top1", "top-1")
        for residual, runs in entry["residuals"].items():
            collapsed, learned = (sum(run[key] for run in runs) for key in ("collapsed", "learned"))
            scores = [mean_of([100 * run[key] for run in runs]) for key in ("best", "last")]
            lines.append((task, residual, len(runs), collapsed, len(runs) - learned, metric, *scores))
    return rows(("", "residual", "trainings", "collapsed", "learned nothing", "metric (%)", "best", "last"), *lines)


def many_classes() -> str:
    lines = []
    for name, setup in record("shapes-20")["setups"].items():
        finite = "yes" if all(run["losses_finite"] for run in setup["runs"]) else "no"
        by_tenths = zip(*(run["mAP50 by tenths"] for run in setup["runs"]))
        rising = ", ".join(f"{100 * statistics.mean(tenth):.0f}" for tenth in by_tenths)
        best = (mean_of([100 * run[key] for run in setup["runs"]]) for key in ("mAP50", "mAP50-95"))
        lines.append((SETUPS[name], finite, rising, *best))
    return rows(("", "losses finite", "mAP50 (%) after each tenth", "mAP50, best", "mAP50-95, best"), *lines)


def published() -> str:
    """The paper's YOLOv12 beside Ultralytics' YOLO26."""
    lines = [
        (other.scale, *(f"{value:.1f}" for value in (ours.ap, other.ap)), f"{ours.latency:.2f}", f"{other.latency:.1f}")
        for ours, other in zip((MODELS[f"yolov12{scale}"] for scale in "nsmlx"), YOLO26)
    ]
    return rows(("", "YOLOv12, AP", "YOLO26, AP, end to end", "YOLOv12, T4 ms", "YOLO26, T4 ms"), *lines)


def yolo26() -> str:
    """What YOLO26-N takes of YOLOv12-N's time."""
    ratios = {row["runtime"]: row["ratio"] for row in record("cpu")["rows"] if row["model"] == "yolo26n"}
    return listed([f"{ratio:.2f} ({RUNTIMES[runtime]})" for runtime, ratio in ratios.items()])


def cpu_against_stock() -> str:
    measured = [*record("cpu")["rows"], *record("cpu-torch")["rows"]]
    ratios = {(row["runtime"], row["model"]): row["ratio"] for row in measured}
    lines = [
        (name, *(f"{ratios[runtime, f'yolov12{s}'] / ratios[runtime, f'yolo12{s}']:.2f}" for s in "nsm"))
        for runtime, name in RUNTIMES.items()
    ]
    return rows(("", *"NSM"), *lines)


def formats() -> str:
    """A line for each format: how far all models come, what ours takes of the others' time, by what, or why not."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in record("formats")["rows"]:
        found[row["name"]][row["model"]] = row
    lines = []
    for name, models in found.items():
        ours, *others = (models[model] for model in ("yolov12n", "yolo12n", "yolo11n"))
        steps = [done([model for model, row in models.items() if row[step]], models) for step in FORMAT_STEPS]
        both = [ours.get("ratio") and other.get("ratio") for other in others]
        ratios = (f"{ours['ratio'] / ratio:.2f}" if ratio else "" for ratio in both)
        by = ", ".join(f"{package} {version}" for package, version in ours.get("packages", {}).items())
        reason = ours.get("reason", "")
        why = [reason if reason.endswith("is not installed") else "", ours.get("needs") or ("" if by else reason) or by]
        lines.append((name, *steps, *ratios, "; ".join(filter(None, why))))
    return rows(("", *FORMAT_STEPS, "ours / stock", "ours / YOLO11n", "by, or why not"), *lines)


def done(which: Sequence[str], of: Iterable[str]) -> str:
    """Whether a step succeeded with all models, or with which."""
    return "yes" if list(which) == list(of) else listed(which) if which else "–"


def every_model() -> str:
    """The models that do not pass on a runtime, and why."""
    found, runtimes = record("every-model")["rows"], ("onnxruntime", "openvino")

    def outcome(one: dict[str, Any]) -> str:
        return (
            "passes"
            if one["passed"]
            else textwrap.shorten(one["note"] or "differs", 110).replace("<", "").replace(">", "")
        )

    lines = [(row["model"], *(outcome(row[r]) for r in runtimes)) for row in found]
    others = [line for line in lines if line[1:] != ("passes", "passes")]
    head = f"{len(found) - len(others)} of {len(found)} pass on both; the others:"
    return rows((head, "ONNX Runtime", "OpenVINO"), *others)


def memory() -> str:
    found = {(row["what"], row["imgsz"], row["model"]): row for row in record("attention-cpu")["rows"]}
    kinds = {"sdpa": "{}, {} pixels", "checkpointing": "the same with `checkpointing()`"}
    lines = []
    for what, imgsz in dict.fromkeys((what, imgsz) for what, imgsz, _ in found if what != "inference, eager"):
        for kind, words in kinds.items():
            measured = [found.get((what, imgsz, f"yolov12{s}, {kind}")) for s in "nl"]
            lines.append((words.format(what, imgsz), *(f"{row['ratio']:.3f}" if row else "" for row in measured)))
    return rows(("ours / stock", "N", "L"), *lines)


def kept() -> str:
    """Cells of the table of stock, fork and plugin."""
    mb = defaultdict(list)
    for row in record("attention-cpu")["rows"]:
        if "mb" in row:
            mb[row["model"]].append(row["mb"])
    stock, default, switched = (
        "{:.0f} / {:.0f} MB".format(*mb[name])
        for name in ("yolo12n, stock", "yolov12n, sdpa", "yolov12n, checkpointing")
    )
    return f"{stock} an image | not measured | {default}; {switched} with `checkpointing()`"


def table3() -> str:
    found = {(row["backend"], row["model"][-1]): row for row in record("table3")["rows"]}
    scales = dict.fromkeys(scale for _, scale in found)
    lines = [("paper, without FlashAttention", *(f"{found['math', s]['ratio_paper']:.2f}" for s in scales))]
    lines += [(f"this plugin, `{b}`", *(f"{found[b, s]['ratio']:.2f}" for s in scales)) for b in ("math", "sdpa")]
    return rows(("", *(s.upper() for s in scales)), *lines)


def startup() -> str:
    return f"{record('startup')['median_added_ms']:.1f} ms"


def table2() -> str:
    return f"\n{vary('table2').markdown()}\n"


def table2_trained() -> str:
    trained = [variant for variant in record("ablation-table2")["variants"] if variant["runs"]]
    return rows(
        ("mAP50-95", *(f"seed {run['seed']}" for run in trained[0]["runs"])),
        *((v["variant"], *(f"{100 * run['best']['mAP50-95']:.1f}" for run in v["runs"])) for v in trained),
    )


def hostile() -> str:
    """What came of each attack or fault; of the same on several things, one after the other."""
    lines = []
    for r in sorted(record("hostile")["rows"], key=lambda r: (FAULTS.index(kind(r["fault"])), r["fault"])):
        outcomes = "; ".join(f"{count} × {outcome}" for outcome, count in r["outcomes"].items()).replace("|", "\\|")
        lines.append((r["fault"], r["what"], f"{r['held']} of {r['tries']}", outcomes))
    return rows(("attack or fault", "on", "held", "what came of it"), *lines)


FAULTS = ("kill", "SIGINT", "SIGTERM", "20", "disk", "read-only", "other")


def kind(fault: str) -> str:
    return next((word for word in FAULTS if fault.startswith(word)), "other")


def leaks() -> str:
    """MB of a process at the start, after each tenth of the times and at the end, on both sides."""
    lines = []
    for r in record("leaks")["rows"]:
        sides = r["stock"], r["plugin"]
        curves = (", ".join(f"{mb:.0f}" for mb in side) for side in sides)
        growth = (f"{side[-1] - side[1]:.1f}" for side in sides)
        lines.append((f"{r['times']} {r['what']}", *curves, *growth))
    return rows(("MB", "stock", "plugin", "growth from the first tenth on, stock", "plugin"), *lines)


def conformance() -> str:
    return f"\n{table.markdown(record('conformance'))}"


BLOCKS = {
    f.__name__.replace("_", "-"): f
    for f in (
        *(models, cards, detectors, patches, stability, finetune, shapes, kills, training, training_shapes),
        *(aot, aot_int8, fused, cpu),
        *(int8, int8_neon, int8_masks, int8_speed, int8_unsigned, qat, onnx_time),
        *(cpu_against_stock, memory, kept, startup),
        *(table3, table2, table2_trained, yolo26, published, cpu_large, e2e, neon, neon_short, tasks),
        *(many_classes, conformance, suite, formats, every_model, hostile, leaks),
    )
}


def written(text: str) -> str:
    """A page with each of its blocks made anew."""
    return BLOCK.sub(
        lambda block: f"<!-- {block['name']}:begin -->{BLOCKS[block['name']]()}<!-- {block['name']}:end -->", text
    )


def main() -> None:
    for page in PAGES:
        page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
