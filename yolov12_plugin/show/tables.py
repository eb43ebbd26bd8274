"""Tables of what `yolov12 bench` found."""

import io
import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

from yolov12_plugin.benchmark.results import device_name

STYLE: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}


def latency_table(result: dict[str, Any]) -> Table:
    """Milliseconds a batch, ratio to the first of the runtime, parameters, GFLOPs, and the paper's T4 milliseconds.

    Models that failed are left out.
    """
    right = [
        Column(name, justify="right", no_wrap=True) for name in ("ms", "p10–p90", "+ NMS", "ratio", "M", "G", "T4")
    ]
    names = [Column(name, no_wrap=True) for name in ("Model", "Runtime")]
    caption = "ms a batch; M parameters and GFLOPs, fused; T4: the paper's ms, TensorRT FP16, 1 x 640"
    table = Table(*names, *right, title=heading(result), caption=caption, **STYLE)
    for row in result["rows"]:
        if "error" in row:
            continue
        time, nms = row["latency"], row["latency_nms"]
        table.add_row(
            row["model"],
            f"{row['runtime']} {row['precision']}",
            f"{time['median_ms']:.2f}",
            f"{time['p10_ms']:.1f}–{time['p90_ms']:.1f}",
            f"{nms['median_ms']:.2f}" if nms else "–",
            f"{row['ratio']:.2f}" if row["ratio"] else "–",
            f"{row['parameters'] / 1e6:.1f}",
            f"{row['gflops']:.1f}",
            f"{row['paper_ms']:.2f}" if row["paper_ms"] else "–",
        )
    return table


def heading(result: dict[str, Any]) -> str:
    """Where and how a table's times were measured; a T4 only where it was one."""
    protocol, rows = result["protocol"], [row for row in result["rows"] if "error" not in row]
    devices = {row["device"]: device_name(result, row["device"]) for row in rows}
    threads = [f"{protocol['threads']} threads"] if "cpu" in devices else []
    switches = [name.replace("_", " ") for name in ("cuda_graph", "compile") if protocol[name]]
    sizes = sorted({f"{row['batch']} x {row['imgsz']} pixels" for row in rows})
    return ", ".join([*devices.values(), *threads, *switches, *sizes])


def aot_table(result: dict[str, Any]) -> Table:
    """Kernels, attentions that are one kernel, and engine size of each model, stock's build beside ours."""
    counts = [Column(name, justify="right", no_wrap=True) for name in ("Kernels", "Fused attentions", "Engine (MB)")]
    sizes = sorted({row["imgsz"] for row in result["rows"] if "error" not in row})
    title = f"TensorRT-RTX, FP16, {' and '.join(map(str, sizes))} pixels"
    names = [Column(name, no_wrap=True) for name in ("Model", "Built by", "Compiled for")]
    table = Table(*names, *counts, title=title, **STYLE)
    for row in result["rows"]:
        if "error" not in row:
            fused = f"{row['fused_attentions']} of {row['attentions']}" if row["attentions"] else "–"
            size = f"{row['engine_bytes'] / 1e6:.1f}"
            table.add_row(row["model"], row["build"], row["capability"], str(row["kernels"]), fused, size)
    return table


def show(table: Table) -> None:
    """Print a table on the standard output; in a file as wide as its longest words need."""
    needed = Console(width=10_000).measure(table).minimum
    Console(width=None if sys.stdout.isatty() else max(160, needed)).print(table)


def markdown(table: Table) -> str:
    """A table as Markdown, without its title."""
    table.box, table.title, table.caption = box.MARKDOWN, None, None
    table.padding, table.pad_edge = (0, 1), True
    console = Console(width=10_000, file=io.StringIO())  # a row of Markdown is one line
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.strip() for line in captured.get().splitlines() if line.strip()) + "\n"
