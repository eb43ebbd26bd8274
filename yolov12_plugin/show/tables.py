"""Tables of what `yolov12 bench` found."""

from typing import Any

from yolov12_plugin.benchmark.results import device_name
from yolov12_plugin.deploy.accuracy import Accuracy
from yolov12_plugin.show.view import View


def latencies(result: dict[str, Any]) -> View:
    """Milliseconds a batch, ratio to the first of the runtime, parameters, GFLOPs, and the paper's T4 milliseconds.

    Models that failed are left out.
    """
    columns = {"model": "Model", "runtime": "Runtime", "ms": "ms", "spread": "p10–p90", "nms": "+ NMS"}
    columns |= {"ratio": "ratio", "parameters": "M", "gflops": "G", "paper_ms": "T4"}
    rows = [
        row
        | {
            "runtime": f"{row['runtime']} {row['precision']}",
            "ms": round(row["latency"]["median_ms"], 2),
            "spread": "{p10_ms:.1f}–{p90_ms:.1f}".format_map(row["latency"]),
            "nms": round(row["latency_nms"]["median_ms"], 2) if row["latency_nms"] else None,
            "parameters": round(row["parameters"] / 1e6, 1),
        }
        for row in measured(result)
    ]
    if any("against_fp32" in row for row in rows):
        judged = {row["verification"]["accuracy"]["metric"] for row in rows if row["verification"]["accuracy"]}
        columns |= {"against_fp32": "of FP32", "layers": "in INT8"}
        columns |= {"accuracy": " or ".join(sorted(judged)), "loss": "points lost"}
        for row in rows:
            found = row["verification"]["accuracy"]
            accuracy = Accuracy(**found) if found else None
            row["against_fp32"] = f"{row['against_fp32']:.2f}" if "against_fp32" in row else None
            row["layers"] = "{} of {}".format(*row["int8_layers"]) if "int8_layers" in row else None
            row["accuracy"] = accuracy and accuracy.kept
            row["loss"] = accuracy and accuracy.lost
    note = "ms a batch; M parameters and GFLOPs, fused; T4: the paper's ms, TensorRT FP16, 1 x 640"
    return View(heading(result), columns, rows, [note])


def heading(result: dict[str, Any]) -> str:
    """Where and how a table's times were measured; a T4 only where it was one."""
    protocol, rows = result["protocol"], measured(result)
    devices = {row["device"]: device_name(result, row["device"]) for row in rows}
    threads = [f"{protocol['threads']} threads"] if "cpu" in devices else []
    switches = [name.replace("_", " ") for name in ("cuda_graph", "compile") if protocol[name]]
    sizes = sorted({f"{row['batch']} x {row['imgsz']} pixels" for row in rows})
    return ", ".join([*devices.values(), *threads, *switches, *sizes])


def kernels(result: dict[str, Any]) -> View:
    """Kernels, attentions that are one kernel, and engine size of each model, stock's build beside ours.

    Where something was compiled in INT8, also the precision and the number of convolutions that are INT8 in the engine.
    """
    rows = [
        row
        | {
            "fused": f"{row['fused_attentions']} of {row['attentions']}" if row["attentions"] else None,
            "size": round(row["engine_bytes"] / 1e6, 1),
            "precision": row.get("precision", "fp16").upper(),
        }
        for row in measured(result)
    ]
    quantised = any(row["precision"] == "INT8" for row in rows)
    columns = {"model": "Model", "build": "Built by"}
    columns |= {"precision": "Precision"} if quantised else {}
    columns |= {"capability": "Compiled for", "kernels": "Kernels", "fused": "Fused attentions"}
    columns |= {"int8_convolutions": "INT8 convolutions"} if quantised else {}
    columns |= {"size": "Engine (MB)"}
    sizes = sorted({row["imgsz"] for row in rows})
    precisions = [precision for precision in ("FP16", "INT8") if any(row["precision"] == precision for row in rows)]
    return View(f"TensorRT-RTX, {' and '.join(precisions)}, {' and '.join(map(str, sizes))} pixels", columns, rows)


def measured(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if "error" not in row]
