"""`yolov12 bench`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from yolov12_plugin.cli.common import Json, Markdown, Out, in_flags, one_line, output


def bench(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Names, .yaml, .pt, or exported files.")],
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="tensorrt, onnxruntime, openvino, ncnn, mnn, torch, torchscript; more than one with commas."),
    ] = None,
    imgsz: Annotated[int | None, typer.Option(min=32, help="Pixels. 640, and 224 for classifiers.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images at a time. 1.")] = None,
    half: Annotated[bool, typer.Option("--half", help="FP16.")] = False,
    runs: Annotated[int | None, typer.Option(min=1, help="Rounds that are timed. 100.")] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="Rounds before them. 10.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, 0, cuda:1. The first GPU if there is one.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU. All.")] = None,
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="Replay tensorrt and torch as CUDA graphs.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile, on torch.")] = False,
    reference: Annotated[str | None, typer.Option(help="The .pt of an exported MODEL, if not beside it.")] = None,
    aot: Annotated[
        str | None, typer.Option(help="Compile for sm75,sm86,... by TensorRT-RTX, with no GPU, and count kernels.")
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="3 rounds at 160 pixels: does it run?")] = False,
    out: Out = None,
    as_json: Json = False,
    as_markdown: Markdown = False,
) -> None:
    """Latency of any Ultralytics MODEL, in one interleaved run. yolo12* is stock's, exported without the plugin.

    Every model is verified on its runtime before it is timed. Exit code 1: one does not compute what PyTorch does;
    2: one does not run.
    """
    from rich.console import Console
    from rich.progress import Progress

    from yolov12_plugin.benchmark.bench import Protocol, bench, pick_options, pick_runtimes, steps_of
    from yolov12_plugin.files import check_place
    from yolov12_plugin.show.tables import kernels, latencies

    models = list({str(Path(model).resolve()): model for model in models}.values())

    def advance(what: str, steps: int) -> None:
        progress.update(bar, description=what, advance=steps)

    def report(line: str) -> None:
        progress.console.print(in_flags(line), markup=False, highlight=False, soft_wrap=True)

    with (
        one_line(),
        Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress,
    ):
        if out:
            check_place(out)
        bar = progress.add_task("", total=len(models))
        if aot is not None:
            from yolov12_plugin.benchmark.aot import bench_aot

            capabilities = [part.strip().lower() for part in aot.split(",") if part.strip()]
            result = bench_aot(models, capabilities, imgsz, report=report, advance=advance)
            view = kernels(result)
        else:
            options = pick_options(device, threads, cuda_graph, compile)
            names = pick_runtimes(models, runtime, options)
            protocol = Protocol(
                imgsz=imgsz,
                default_imgsz=160 if smoke else None,
                batch=batch,
                half=half,
                runs=runs or (3 if smoke else 100),
                warmup=warmup if warmup is not None else (1 if smoke else 10),
                options=options,
            )
            progress.update(bar, total=steps_of(len(models), len(names), protocol))
            result = bench(models, names, protocol, reference=reference, report=report, advance=advance)
            view = latencies(result)
    if not output(result, out, as_json) and view.rows:
        view.print(as_markdown)
    failed = [row for row in result["rows"] if "error" in row]
    if failed:
        differs = (not row["verification"]["passed"] for row in failed if "verification" in row)
        raise typer.Exit(1 if any(differs) else 2)
