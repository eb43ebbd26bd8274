"""Write what README.md and docs/ show of records and of tables in the code: python benchmarks/pages.py

Each stands between two marks, `<!-- name:begin -->` and `<!-- name:end -->`, and is made by the function of that name.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conformance import table  # noqa: E402

from yolov12_plugin.models import MODELS  # noqa: E402
from yolov12_plugin.paper.contents import vary  # noqa: E402
from yolov12_plugin.registry import PATCHES  # noqa: E402
from yolov12_plugin.show.tables import kernels, latencies  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"<!-- (?P<name>[\w-]+):begin -->.*?<!-- (?P=name):end -->", re.DOTALL)
RUNTIMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch": "PyTorch ([cpu-torch.json](benchmarks/results/cpu-torch.json))",
}
SETUPS = {  # the README's words for those of the record
    "Table 7, batch 16": "Table 7 at batch 16",
    "finetune preset": "this preset",
    "finetune preset, its own model": "this preset, its own model",
}


def record(name: str) -> Any:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))


def rows(*lines: Iterable[object]) -> str:
    """Lines of cells, the first of which are the heads."""
    head, *others = [f"| {' | '.join(map(str, cells))} |" for cells in lines]
    rule = f"|{'---|' * (head.count('|') - 1)}"
    return "\n".join(["", head, rule, *others, ""])


def listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def models() -> str:
    head = "model", "pixels", "params (M)", "FLOPs (G)", "AP, COCO val (paper)", "T4 TensorRT FP16, ms (paper)"
    figures = [(m.name, m.imgsz, m.parameters_m, m.gflops, m.ap, m.latency) for m in MODELS.values()]
    return rows(head, *(["–" if cell is None else cell for cell in row] for row in figures))


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


def fused() -> str:
    """Cells of the first table."""
    found = {
        row["build"]: row for row in record("aot")["rows"] if (row["model"], row["capability"]) == ("yolov12n", "sm75")
    }
    words = "{fused_attentions} of {attentions}, {kernels} kernels"
    stock, ours = (words.format(**found[by]) for by in ("stock", "plugin"))
    return f"{stock} | not measured | {ours}"


def cpu() -> str:
    return f"\n{latencies(record('cpu')).markdown()}\n"


def cpu_against_stock() -> str:
    measured = [*record("cpu")["rows"], *record("cpu-torch")["rows"]]
    ratios = {(row["runtime"], row["model"]): row["ratio"] for row in measured}
    lines = [
        (name, *(f"{ratios[runtime, f'yolov12{s}'] / ratios[runtime, f'yolo12{s}']:.2f}" for s in "nsm"))
        for runtime, name in RUNTIMES.items()
    ]
    return rows(("", *"NSM"), *lines)


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
    """Cells of the first table."""
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


def conformance() -> str:
    return f"\n{table.markdown(record('conformance'))}"


BLOCKS = {
    f.__name__.replace("_", "-"): f
    for f in (
        *(models, patches, stability, finetune, shapes, kills, training, training_shapes, aot, fused, cpu),
        *(cpu_against_stock, memory, kept, startup, table3, table2, table2_trained, conformance, suite),
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
