"""What a CUDA machine makes of YOLOv12: outputs and attention held against exact ones, training, latencies.

The record is written after each part, so that it has what was done when time is up. `gpu.sh` calls this. With --device
cpu it runs without a GPU, where outputs are compared with themselves; on a GPU it has not run yet.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from datetime import datetime, timezone
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import attention
import torch
from torch import Tensor

import yolov12_plugin
from yolov12_plugin.benchmark.bench import Candidate, Protocol, bench, pick_options
from yolov12_plugin.benchmark.machine import machine, versions
from yolov12_plugin.benchmark.results import SCHEMA
from yolov12_plugin.deploy.runtimes.pytorch import Torch, exportable
from yolov12_plugin.deploy.runtimes.session import Options
from yolov12_plugin.deploy.verify import read_images, verify
from yolov12_plugin.errors import NotRunnable, first_line
from yolov12_plugin.files import check_place, write_text
from yolov12_plugin.nn.attention import BACKENDS
from yolov12_plugin.nn.attention import attention as attend
from yolov12_plugin.show.tables import latencies
from yolov12_plugin.show.view import View

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MODES = {"eager": {}, "cuda_graph": {"cuda_graph": True}, "compiled": {"compile": True}}
# Batch, heads, tokens, head_dim: an area of 16 images at 640 pixels, a whole map, an area at 1280, and an odd number.
SHAPES = ((64, 2, 400, 32), (16, 4, 400, 32), (16, 2, 1600, 32), (2, 4, 77, 32))
LIMITS = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 0.04}  # of relative errors, some five times the rounding


def outputs(names: Sequence[str], imgsz: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Each model on the device in each data type, held against itself in FP32 on the CPU."""
    images = read_images((imgsz, imgsz))
    for name in names:
        net = exportable(Candidate(name, imgsz=imgsz).net, imgsz)
        for precision, dtype in DTYPES.items():
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                try:
                    session = Torch(deepcopy(net).to(dtype), Options(device=device))
                    found = verify(net, session, images, precision).record()
                    row = {key: found[key] for key in ("passed", "box_px", "score", "matched", "detections")}
                    row |= {"error": found["diverging"]} if found["diverging"] else {}
                except Exception as e:  # one that fails does not cost the others
                    row = {"passed": False, "error": f"{type(e).__name__}: {first_line(e)}"}
            yield {"model": name, "precision": precision, **row}


def backends(shapes: Sequence[tuple[int, ...]], device: torch.device) -> Iterator[dict[str, Any]]:
    """Each backend of attention in each data type: relative errors of value and gradients, beside math in FP64."""
    for shape, (precision, dtype) in product(shapes, DTYPES.items()):
        generator = torch.Generator().manual_seed(0)
        qkvg = torch.randn(4, *shape, generator=generator).to(device, dtype)
        exact = differentiated("math", qkvg.double())
        for name in BACKENDS:
            about = {"backend": name, "precision": precision, "shape": list(shape)}
            try:
                found = differentiated(name, qkvg)
            except (ImportError, RuntimeError) as e:
                yield {**about, "passed": None, "error": first_line(e)}
                continue
            errors = [((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, exact)]
            passed = max(errors) <= LIMITS[precision] and all(a.isfinite().all() for a in found)
            yield {**about, "passed": passed, **dict(zip(("out", "dq", "dk", "dv"), errors))}


def differentiated(backend: str, qkvg: Tensor) -> list[Tensor]:
    q, k, v, grad = qkvg
    inputs = [t.detach().requires_grad_() for t in (q, k, v)]
    out = attend(*inputs, backend=backend)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


def show(title: str, found: Any) -> None:
    """Print a part; of a backend the worst of all shapes."""
    if isinstance(found, dict):
        latencies(found).print()
        return
    if title == "backends":
        of_one: dict[Any, list[dict[str, Any]]] = {}
        for row in found:
            of_one.setdefault((row.get("backend"), row.get("precision")), []).append(row)
        found = [max(rows, key=lambda row: row.get("dq", 0)) for rows in of_one.values()]
    keys = list(dict.fromkeys(key for row in found for key in row))
    rows = [{key: brief(row.get(key)) for key in keys} for row in found]
    View(title, {key: key for key in keys}, rows).print()


def brief(value: Any) -> Any:
    if isinstance(value, float) and abs(value) < 0.1:
        return f"{value:.1e}"
    return str(value) if isinstance(value, list) else value


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="0 by default, cpu without a GPU")
    parser.add_argument("--models", nargs="+", default=["yolov12n", "yolov12n-turbo", "yolov12n-seg", "yolov12l"])
    parser.add_argument("--timed", nargs="+", default=["yolov12n", "yolo12n", "yolo11n", "yolo26n"])
    parser.add_argument("--against", nargs="*", default=["yolo11", "yolo26"], help="in training, beside stock")
    parser.add_argument("--imgsz", type=int, nargs="+", default=[640, 1280], help="of training; the first, of the rest")
    parser.add_argument("--batch", type=int, default=16, help="of training")
    parser.add_argument("--rounds", type=int, default=10, help="of training; latencies have ten times as many")
    parser.add_argument("--modes", nargs="+", choices=MODES, help="all of them; eager alone on a CPU")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="the record")
    args = parser.parse_args(argv)
    yolov12_plugin.register()  # installed by --target, nothing has registered it
    try:
        check_place(args.out)
        device = pick_options(args.device, None, False, False).device
    except NotRunnable as e:
        sys.exit(f"Error: {e}")
    cuda, imgsz = device.type == "cuda", args.imgsz[0]
    shapes = SHAPES if cuda else [(2, *shape[1:]) for shape in SHAPES]
    modes = args.modes or (list(MODES) if cuda else ["eager"])

    def timed(mode: str) -> dict[str, Any]:
        switches = {"cuda_graph": False, "compile": False} | MODES[mode]
        options = pick_options(args.device, torch.get_num_threads(), **switches)
        protocol = Protocol(imgsz=imgsz, half=cuda, runs=10 * args.rounds, warmup=args.rounds, options=options)
        return bench(args.timed, ["torch"], protocol, report=partial(print, file=sys.stderr))

    def trained(pixels: int) -> list[dict[str, Any]]:
        names = {"backends": ["auto"], "against": args.against}
        return attention.training("n", pixels, args.batch, device, args.rounds, **names)

    parts: dict[str, Callable[[], Any]] = {
        "outputs": lambda: list(outputs(args.models, imgsz, device)),
        "backends": lambda: list(backends(shapes, device)),
        **{f"latency, {mode}": partial(timed, mode) for mode in modes if mode != "compiled"},
        **{f"training, {pixels}": partial(trained, pixels) for pixels in args.imgsz},
        **{f"latency, {mode}": partial(timed, mode) for mode in modes if mode == "compiled"},  # takes the longest
    }
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record: dict[str, Any] = {"schema": SCHEMA, "kind": "gpu", "created": created, "imgsz": imgsz}
    record |= {"machine": machine(device), "versions": versions(), **dict.fromkeys(parts)}
    for name, measure in parts.items():
        try:
            record[name] = measure()
        except Exception as e:  # likewise
            record[name] = [{"passed": False, "error": f"{type(e).__name__}: {first_line(e)}"}]
        show(name, record[name])
        write_text(args.out, json.dumps(record, indent=2) + "\n")
    wrong = sum(row["passed"] is False for name in ("outputs", "backends") for row in record[name])
    print(f"{args.out} has all of it; {wrong or 'none'} of the outputs and backends are wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
