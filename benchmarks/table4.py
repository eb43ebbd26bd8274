"""Table 4: latency at FP32/FP16 on the paper's GPUs beside those measured; the forward pass of one 640 pixel image."""

from typing import Any

from table1 import beside, command

from yolov12_plugin.benchmark.results import Results, by_setup
from yolov12_plugin.paper.published import TABLE4

PAPER = {
    "gflops_paper": "FLOPs (G)",
    "gflops": "built",
    "rtx3080_ms_paper": "paper's RTX 3080 (ms)",
    "a5000_ms_paper": "paper's A5000 (ms)",
    "a6000_ms_paper": "paper's A6000 (ms)",
}


def pair(fp32: float | None, fp16: float | None) -> dict[str, float | None]:
    return {"fp32": fp32, "fp16": fp16}


def rows(results: list[Results]) -> list[dict[str, Any]]:
    """The paper's rows, then the models measured on a GPU that are not in its table; `latency_ms` by setup."""
    setups: dict[str, dict[str, dict[str, float | None]]] = {}
    built = {}
    for (setup, precision), found in by_setup(results).items():
        for name, row in found.items():
            precision = "fp32" if precision == "tf32" else precision
            if row.device != "cpu" and precision in ("fp32", "fp16"):
                built[name] = row
                pairs = setups.setdefault(f"{setup} (ms)", {})
                pairs.setdefault(name, pair(None, None))[precision] = round(row.latency.median_ms, 2)
    table = []
    for paper, _, about in beside(TABLE4, built):
        table.append(
            {
                **about,
                "rtx3080_ms_paper": paper and pair(*paper.rtx3080),
                "a5000_ms_paper": paper and pair(*paper.a5000),
                "a6000_ms_paper": paper and pair(*paper.a6000),
                "latency_ms": {
                    setup: found[about["name"]] for setup, found in setups.items() if about["name"] in found
                },
            }
        )
    return table


if __name__ == "__main__":
    command(__doc__, rows, PAPER)
