"""Table 1's latencies on a T4: each model as an engine in half precision, verified, timed, beside what others print.

Without a step all of them: `install` the plugin and TensorRT 10, `check` the GPU, `run`, `show`. What was timed is in
the record: the same command goes on where a session was taken away, and tries again what failed. On a CPU, `--smoke`
does the same with ONNX Runtime, scale N and small images, in a minute.

Run so far: `--smoke` on CPUs, and all steps but `install` on a stand-in for TensorRT with the interface of the real
one. On a T4, on Colab and on Kaggle it has not run yet.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # these come with `install`
    from yolov12_plugin.benchmark.bench import Protocol
    from yolov12_plugin.show.view import View

ROOT = Path(__file__).resolve().parent.parent
BASE = "yolov12n"  # in each run of `bench`: what ratios are to
FAMILIES = ("yolov12{}", "yolov12{}-turbo", "yolo12{}", "yolo11{}", "yolo26{}")
CONTRIBUTE = """\
To contribute it: python {check} {out}, then add it to benchmarks/results/ by a pull request with
?template=record.md at the end of its address, which asks what has to be known beside it."""


def install(smoke: bool = False) -> None:
    """Install what is not here: this checkout with what exports need, and TensorRT 10 for the CUDA of this PyTorch."""
    missing = [name for name in ("yolov12_plugin", "onnx", "onnxslim", "onnxruntime") if not find_spec(name)]
    packages = [f"{ROOT}[export]"] if missing else []
    if not smoke and not find_spec("tensorrt"):
        import torch

        # The package `tensorrt` takes libraries of the newest CUDA, which the drivers of Colab and Kaggle may not know.
        packages.append(f"tensorrt-cu{(torch.version.cuda or '12').split('.')[0]}>=10,<11,!=10.2.0")
    if packages:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *packages], check=True)
        importlib.invalidate_caches()
    print(f"Installed: {', '.join(packages)}" if packages else "All of it is installed")


def check(smoke: bool = False, device: str | None = None) -> None:
    """Say what GPU this is, and whether it is a T4.

    Raises:
        NotRunnable: there is no GPU, or no TensorRT.
    """
    from yolov12_plugin.benchmark.bench import pick_options
    from yolov12_plugin.benchmark.machine import machine
    from yolov12_plugin.deploy.runtimes import runtime_named

    runtime_named("onnxruntime" if smoke else "tensorrt").require()
    about = machine(pick_options("cpu" if smoke else device, None, True, False).device)
    gpu = about["gpu"]
    name = gpu["name"] if gpu else about["processor"]
    print(name, *([f"driver {gpu['driver']}, {gpu['power_limit_w']} W"] if gpu else []), sep=", ")
    if "T4" not in name.split():
        print(f"Warning: {name} is no T4: the record says so, and its milliseconds are not Table 1's", file=sys.stderr)


def groups(scales: str, done: Sequence[str] = ()) -> Iterator[list[str]]:
    """Models that take turns in one run of `bench`, a scale at a time: the base first, then what is not done."""
    for scale in scales:
        models = [family.format(scale) for family in FAMILIES]
        if todo := [model for model in models if model not in done]:
            yield list(dict.fromkeys((BASE, *todo)))


def run(
    out: Path,
    scales: str = "nsmlx",
    smoke: bool = False,
    device: str | None = None,
    runs: int | None = None,
    advance: Callable[..., object] = lambda what, steps, total: None,
) -> dict[str, Any]:
    """Measure what `out` has not, and write it after each scale; the record of schema 1.

    Raises:
        NotRunnable: there is no GPU, or no TensorRT; `out` is of another machine, protocol or version.
    """
    import yolov12_plugin
    from yolov12_plugin.benchmark.bench import Protocol, bench, pick_options, steps_of
    from yolov12_plugin.deploy.runtimes import runtime_named
    from yolov12_plugin.files import check_place, write_text

    yolov12_plugin.register()  # which a process that began before `install` did not
    runtime = runtime_named("onnxruntime" if smoke else "tensorrt")
    runtime.require()
    protocol = Protocol(
        imgsz=160 if smoke else 640,
        batch=1,
        half=not smoke,
        runs=runs or (3 if smoke else 100),
        warmup=1 if smoke else 10,
        options=pick_options("cpu" if smoke else device, None, not smoke, False),
    )
    check_place(out)
    record = resumed(out, protocol) if out.exists() else None
    todo = list(groups(scales, timed(record)))
    total = sum(steps_of(len(models), 1, protocol) for models in todo)
    for models in todo:
        new = bench(
            models,
            [runtime.name],
            protocol,
            report=lambda line: print(line, file=sys.stderr),
            advance=lambda what, steps: advance(what, steps, total),
        )
        record = merged(record, new) if record else new
        write_text(out, json.dumps(record, indent=2, allow_nan=False) + "\n")
    return record or {}


def timed(record: dict[str, Any] | None) -> list[str]:
    return [row["model"] for row in record["rows"] if "error" not in row] if record else []


def resumed(out: Path, protocol: "Protocol") -> dict[str, Any]:
    """The record in a file, to which rows measured here and now may be added.

    Raises:
        NotRunnable: it was measured otherwise.
    """
    from yolov12_plugin.benchmark.machine import machine, versions
    from yolov12_plugin.errors import NotRunnable

    record = json.loads(out.read_text(encoding="utf-8"))

    def about(protocol: Any, machine: Any, versions: Any) -> dict[str, Any]:
        return {**protocol, **versions, "GPU": (machine["gpu"] or machine)["name" if machine["gpu"] else "processor"]}

    was = about(record["protocol"], record["machine"], record["versions"])
    now = about(json.loads(json.dumps(protocol.record())), machine(protocol.options.device), versions())
    if other := [f"{key} {was.get(key)}, here {now.get(key)}" for key in was | now if was.get(key) != now.get(key)]:
        raise NotRunnable(f"{out} was measured otherwise ({'; '.join(other)}): name another file by --out")
    return record


def merged(record: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A record with the rows of another run of `bench`, whose base is not counted twice."""
    rows = [row for row in new["rows"] if row["model"] not in timed(record)]
    if BASE not in timed(new):  # what else was first is not what ratios are to
        rows = [row | {"ratio": None} if "ratio" in row else row for row in rows]
    names = [row["model"] for row in rows]
    merged = record | {"rows": [row for row in record["rows"] if row["model"] not in names] + rows}
    if (was := record["machine"]["gpu"]) and (now := new["machine"]["gpu"]):
        clocks = was["sm_clocks_mhz"] + now["sm_clocks_mhz"]
        steady = len(set(clocks)) == 1 if clocks else None
        gpu = now | {"before": was["before"], "sm_clocks_mhz": clocks, "clocks_steady": steady}
        merged["machine"] = record["machine"] | {"gpu": gpu}
    return merged


def table(out: Path) -> "View":
    """Table 1's rows of what was measured, beside what the paper, Ultralytics and the authors print."""
    from yolov12_plugin.benchmark.results import read_results
    from yolov12_plugin.paper import tables
    from yolov12_plugin.paper.contents import COMPARISONS, say_source
    from yolov12_plugin.published import T4_OF_THE_AUTHORS, T4_OF_ULTRALYTICS
    from yolov12_plugin.show.view import View

    results = [read_results(out)]
    title, columns, _ = COMPARISONS["table1"]
    others = {"ultralytics_paper": "Ultralytics (ms)", "authors_paper": "authors (ms)"}
    keys = ("model", "gflops", "params_m", "ap_paper", "latency_ms", "latency_ratio", "latency_ms_paper", "ratio_paper")
    rows = [
        row | dict(zip(others, (T4_OF_ULTRALYTICS.get(row["name"]), T4_OF_THE_AUTHORS.get(row["name"]))))
        for row in tables.table1(results, every=False)
    ]
    columns = {key: columns[key] for key in keys} | others
    notes = [] if any(row.like_the_paper for row in results[0].rows) else ["Nothing was measured as the table has it."]
    notes += [
        say_source({key: title for key, title in columns.items() if key not in others}, rows),
        "Ultralytics: docs.ultralytics.com/models; authors: the README of github.com/sunsmarterjie/yolov12.",
        *tables.failures(results),
    ]
    return View(title, columns, rows, notes)


def show(out: Path) -> None:
    """Print what was measured, Table 1, and how to contribute the record."""
    from yolov12_plugin.show.tables import latencies

    latencies(json.loads(out.read_text(encoding="utf-8"))).print()
    table(out).print()
    print(CONTRIBUTE.format(check=Path(__file__).with_name("check_record.py"), out=out))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = ("install", "check", "run", "show")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(steps))
    parser.add_argument("--scales", default="nsmlx")
    parser.add_argument("--device", help="0 by default")
    parser.add_argument("--runs", type=int, help="rounds that are timed, 100 by default")
    parser.add_argument("--smoke", action="store_true", help="ONNX Runtime on the CPU, scale N, small images")
    parser.add_argument("--out", type=Path, default=Path("t4.json"), help="the record")
    args = parser.parse_args(argv)
    if unknown := set(args.steps) - set(steps):
        parser.error(f"there is no step {', '.join(unknown)}: they are {', '.join(steps)}")
    # Read when Ultralytics is imported, by `check`: what exports print would bury the progress
    os.environ.setdefault("YOLO_VERBOSE", "false")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    for step in args.steps or steps:
        if step == "install":
            install(args.smoke)
            continue
        from yolov12_plugin.errors import PluginError

        try:
            if step == "check":
                check(args.smoke, args.device)
            elif step == "run":
                with_progress(args)
            else:
                show(args.out)
        except (PluginError, OSError) as e:
            sys.exit(f"Error: {e}")


def with_progress(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=None)

        def advance(what: str, steps: int, total: int) -> None:
            progress.update(bar, description=what, advance=steps, total=total)

        run(args.out, "n" if args.smoke else args.scales, args.smoke, args.device, args.runs, advance)


if __name__ == "__main__":
    main()
