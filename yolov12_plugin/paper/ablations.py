"""Tables 2, 3 and 5: each row as the paper prints it, and the model that it is here."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yolov12_plugin.errors import NotRunnable, choices
from yolov12_plugin.published import TABLE3_CPU

if TYPE_CHECKING:  # at the start of the command nothing that takes time is imported
    from yolov12_plugin.paper.networks import Measurement


@dataclass(frozen=True)
class Variant:
    """A row of an ablation: its name in the paper, the model, and the paper's figures, None where it has none.

    `model` is the name of a YAML; `gflops` and `parameters_m` (millions) are Table 2's; `ap` (%) on COCO val;
    `latency` in ms on a T4 (TensorRT FP16), in Table 3 its CPU's (FP32). `epochs` of training, and the attention
    `backend` by which its latency is measured. `slug` names it within its table.
    """

    label: str
    model: str
    gflops: float | None = None
    parameters_m: float | None = None
    ap: float | None = None
    latency: float | None = None
    converges: bool | None = None
    epochs: int = 600
    backend: str = "auto"
    name: str = ""

    @property
    def scale(self) -> str:
        return self.model[len("yolov12")]

    @property
    def slug(self) -> str:
        return self.name or self.model.removeprefix("yolov12")

    @property
    def train(self) -> str:
        """The command that trains it as the paper did, and scores it."""
        return train_command(self.model, self.epochs)


@dataclass(frozen=True)
class Ablation:
    """A table of the paper that varies YOLOv12, with what its figures say about what this build makes of it."""

    name: str
    title: str
    variants: tuple[Variant, ...]
    note: str = ""

    def base(self, variant: Variant) -> Variant:
        """The row that is YOLOv12 itself, of the variant's scale."""
        same = [v for v in self.variants if v.model == f"yolov12{variant.scale}"]
        return min(same, key=lambda v: (v.backend != "auto", v.epochs != 600))


def train_command(model: str, epochs: int = 600) -> str:
    """The command that trains a model on COCO by the paper's Table 7, on 8 GPUs as the authors did, and scores it."""
    preset = f"cfg={model[: len('yolov12n')]}-coco.yaml"
    name, more = (model, "") if epochs == 600 else (f"{model}-{epochs}", f" epochs={epochs}")
    return (
        f"yolo train {preset} model={model}.yaml data=coco.yaml device=0,1,2,3,4,5,6,7{more} "
        f'project="$PWD/runs" name={name} && yolov12 coco runs/{name}/weights/best.pt --data coco.yaml'
    )


# fmt: off
TABLES = (
    Ablation("table2", "R-ELAN: aggregation, residual and its scaling", (
        Variant("N, vanilla", "yolov12n-elan", 6.9, 2.7, 40.8, converges=True),
        Variant("N, re-aggregation", "yolov12n", 6.5, 2.6, 40.6, converges=True),
        Variant("N, re-aggregation, residual 0.1", "yolov12n-residual-0.1", 6.5, 2.6, 40.3, converges=True),
        Variant("L, vanilla", "yolov12l-elan", converges=False),
        Variant("L, re-aggregation", "yolov12l-no-residual", converges=False),
        Variant("L, re-aggregation, residual 0.1", "yolov12l-residual-0.1", 88.9, 26.4, 53.3, converges=True),
        Variant("L, re-aggregation, residual 0.01", "yolov12l", 88.9, 26.4, 53.7, converges=True),
        Variant("L, vanilla, residual 0.01", "yolov12l-elan-residual", 94.3, 27.8, 53.8, converges=True),
        Variant("X, vanilla", "yolov12x-elan", converges=False),
        Variant("X, re-aggregation", "yolov12x-no-residual", converges=False),
        Variant("X, re-aggregation, residual 0.1", "yolov12x-residual-0.1", converges=False),
        Variant("X, re-aggregation, residual 0.01", "yolov12x", 199.0, 59.1, 55.2, converges=True),
        Variant("X, vanilla, residual 0.01", "yolov12x-elan-residual", 211.3, 62.3, 55.3, converges=True),
    ), "Rows that the paper marks as neither vanilla nor re-aggregated are named by their FLOPs: N's is re-aggregated, "
       "those of L and X are vanilla with a residual."),
    Ablation("table3", "Area attention, without FlashAttention, on a CPU", tuple(
        Variant(f"{scale.upper()}, {label}", f"yolov12{scale}{suffix}", latency=latency, backend="math")
        for scale, row in zip("nsx", TABLE3_CPU)
        for label, suffix, latency in (
            ("no area attention", "-no-area", row.without), ("area attention", "", row.with_area)
        )
    ), "The paper's CPU is an Intel Core i7-10700K. Its FLOPs leave out the products of the attention."),
    Ablation("table5a", "Attention implementation", (
        Variant("Linear+LN", "yolov12n-linear-ln", ap=40.5, latency=1.68),
        Variant("Linear+BN", "yolov12n-linear-bn", ap=39.5, latency=1.70),
        Variant("Conv+BN", "yolov12n", ap=40.6, latency=1.64),
        Variant("Conv+LN", "yolov12n-conv-ln", ap=40.3, latency=1.66),
    )),
    Ablation("table5b", "Hierarchical design", (
        Variant("plain (N/A)", "yolov12n-plain", ap=38.3, latency=1.60),
        Variant("without stage 1", "yolov12n-no-stage1", ap=40.1, latency=1.63),
        Variant("without stage 4", "yolov12n-no-stage4", ap=39.8, latency=1.71),
        Variant("hierarchical", "yolov12n", ap=40.6, latency=1.64),
    ), "The paper gives no widths: these keep the FLOPs of N within 1 %."),
    Ablation("table5c", "Training epochs", tuple(
        Variant(f"{scale.upper()}, {epochs} epochs", f"yolov12{scale}", ap=ap, epochs=epochs, name=f"{scale}-{epochs}")
        for scale, aps in (("n", (39.5, 40.3, 40.6, 40.4)), ("s", (47.0, 47.8, 48.0, 47.7)))
        for epochs, ap in zip((300, 500, 600, 800), aps)
    )),
    Ablation("table5d", "Position perceiver", (
        Variant("3x3", "yolov12n-pe3", ap=40.4, latency=1.60),
        Variant("5x5", "yolov12n-pe5", ap=40.4, latency=1.61),
        Variant("7x7", "yolov12n", ap=40.6, latency=1.64),
        Variant("9x9", "yolov12n-pe9", ap=40.7, latency=1.79),
    )),
    Ablation("table5e", "Position embedding", (
        Variant("RPE", "yolov12n-rpe", ap=40.3, latency=1.76),
        Variant("APE", "yolov12n-ape", ap=40.5, latency=1.69),
        Variant("none", "yolov12n", ap=40.6, latency=1.64),
    ), "The paper does not say which: here sines and cosines (APE), and Swin v2's continuous bias (RPE)."),
    Ablation("table5f", "Area attention, with FlashAttention", (
        Variant("no area attention", "yolov12n-no-area", ap=40.8, latency=1.70),
        Variant("area attention", "yolov12n", ap=40.6, latency=1.64),
    )),
    Ablation("table5g", "MLP ratio", (
        Variant("1.2", "yolov12l", ap=53.8, latency=6.77),
        Variant("2.0", "yolov12l-mlp2", ap=53.6, latency=6.75),
        Variant("4.0", "yolov12l-mlp4", ap=53.1, latency=6.68),
    ), "The paper gives no widths: these keep the parameters of L within 2 %. It prints 53.7 AP for L elsewhere."),
    Ablation("table5h", "FlashAttention", (
        Variant("N, no FlashAttention", "yolov12n", latency=1.92, backend="math", name="n-math"),
        Variant("N, FlashAttention", "yolov12n", latency=1.64),
        Variant("S, no FlashAttention", "yolov12s", latency=3.02, backend="math", name="s-math"),
        Variant("S, FlashAttention", "yolov12s", latency=2.61),
    ), "Measured here: the N x N map in plain operations (math) against the fused attention that is chosen (auto)."),
)
# fmt: on
ABLATIONS = {table.name: table for table in TABLES}
OTHERS = ("1", "4", "6", "7", "figure1", "figure2", "figure3", "figure4", "figure5")  # what else the paper shows


def ablation(name: str) -> Ablation:
    """The ablation of a name as table5a or 5a.

    Raises:
        NotRunnable: there is none; the message lists them, the nearest first.
    """
    key = name.lower().removeprefix("table")
    if key in OTHERS:
        table = key if key.startswith("figure") else f"table{key}"
        raise NotRunnable(f"{table} is no ablation: see `yolov12 paper {table}`; ablations are {', '.join(ABLATIONS)}")
    if f"table{key}" not in ABLATIONS:
        raise NotRunnable(f"no ablation is named {name!r}; {choices(f'table{key}', ABLATIONS, 'ablations')}")
    return ABLATIONS[f"table{key}"]


def rows(name: str, measurement: "Measurement | None" = None) -> list[dict[str, Any]]:
    """A table's rows: FLOPs (G), parameters (M), AP (%) and latency (ms) of the paper, and what is built here.

    With a measurement, `ratio` is the time of a forward pass over that of YOLOv12 itself; `ratio_paper` that of the
    paper's latency, of Table 3 its CPU's.

    Raises:
        NotRunnable: as `ablation`.
    """
    from yolov12_plugin.paper.networks import counts

    table = ablation(name)
    measured = ratios(table, measurement) if measurement else {}
    found = []
    for variant in table.variants:
        gflops, parameters = counts(variant.model)
        ours, base = variant.latency, table.base(variant).latency
        found.append(
            {
                "variant": variant.label,
                "model": variant.model,
                "gflops_paper": variant.gflops,
                "gflops": round(gflops, 1),
                "params_m_paper": variant.parameters_m,
                "params_m": round(parameters / 1e6, 1),
                "converges_paper": variant.converges,
                "ap_paper": variant.ap,
                "latency_ms_paper": variant.latency,
                "ratio_paper": round(ours / base, 2) if ours and base else None,
                "ratio": measured.get(variant),
                "backend": variant.backend,
                "epochs": variant.epochs,
                "train": variant.train,
            }
        )
    return found


def ratios(table: Ablation, measurement: "Measurement") -> dict[Variant, float]:
    """Time of a forward pass of each variant over that of YOLOv12 of its scale.

    Variants that are the same network by the same attention (Table 5c) have none.
    """
    found: dict[Variant, float] = {}
    for scale in dict.fromkeys(v.scale for v in table.variants):
        variants = {(v.model, v.backend): v for v in table.variants if v.scale == scale}
        if len(variants) > 1:
            base = table.base(next(iter(variants.values())))
            found |= measurement.ratios({v: run for run, v in variants.items()}, base)
    return found
