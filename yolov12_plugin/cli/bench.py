"""`yolov12 bench`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from yolov12_plugin.cli.common import Device, Json, Markdown, Out, Trust, in_flags, one_line, output, trusting


def bench(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Names of models, .yaml or .pt files, or exported files.")
    ],
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="tensorrt, onnxruntime, openvino, ncnn, mnn, torch or torchscript; several with commas."),
    ] = None,
    imgsz: Annotated[
        int | None, typer.Option(min=32, help="Image size in pixels (default: 640, for classifiers 224).")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images in a batch (default: 1).")] = None,
    half: Annotated[bool, typer.Option("--half", help="Run in FP16.")] = False,
    int8: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Compare FP32, FP16 and INT8; calibrate and judge INT8 on DATA."),
    ] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="Timed rounds (default: 100).")] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="Rounds before the timed ones (default: 10).")] = None,
    device: Device = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: all).")] = None,
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="Run tensorrt and torch as CUDA graphs.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Compile by torch.compile, on torch.")] = False,
    reference: Annotated[
        str | None, typer.Option(help="The .pt that an exported MODEL was made from (default: the one beside it).")
    ] = None,
    aot: Annotated[
        str | None,
        typer.Option(
            help="Compile for these GPUs, as sm75,sm86, by TensorRT-RTX without a GPU, and count the kernels."
        ),
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Only check that everything runs: 3 rounds at 160 pixels.")
    ] = False,
    trust: Trust = False,
    out: Out = None,
    as_json: Json = False,
    as_markdown: Markdown = False,
) -> None:
    """Measure the latency of any Ultralytics models, in one interleaved run.

    Every model is verified on its runtime before it is timed. yolo12* is stock's model, exported without the plugin.
    Exit code 1 means that a file does not compute its model, 2 that something does not run.
    """
    from rich.console import Console
    from rich.progress import Progress

    from yolov12_plugin.benchmark.bench import Protocol, bench, pick_options, pick_runtimes, steps_of
    from yolov12_plugin.errors import NotRunnable
    from yolov12_plugin.files import check_place
    from yolov12_plugin.show.tables import kernels, latencies

    models = list({str(Path(model).resolve()): model for model in models}.values())

    def advance(what: str, steps: int) -> None:
        progress.update(bar, description=what, advance=steps)

    def report(line: str) -> None:
        progress.console.print(in_flags(line), markup=False, highlight=False, soft_wrap=True)

    with (
        one_line(),
        trusting(trust),
        Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress,
    ):
        if out:
            check_place(out)
        if int8 is not None and half:
            raise NotRunnable("half=True and int8=DATA do not go together: the second times FP16 too")
        bar = progress.add_task("", total=len(models))
        if aot is not None:
            from yolov12_plugin.benchmark.aot import bench_aot

            capabilities = [part.strip().lower() for part in aot.split(",") if part.strip()]
            result = bench_aot(models, capabilities, imgsz, int8=int8, report=report, advance=advance)
            view = kernels(result)
        else:
            options = pick_options(device, threads, cuda_graph, compile)
            names = pick_runtimes(models, runtime, options)
            protocol = Protocol(
                imgsz=imgsz,
                default_imgsz=160 if smoke else None,
                batch=batch,
                half=half,
                int8=int8,
                runs=runs or (3 if smoke else 100),
                warmup=warmup if warmup is not None else (1 if smoke else 10),
                options=options,
            )
            progress.update(bar, total=steps_of(len(models), len(names), protocol))
            result = bench(models, names, protocol, reference=reference, report=report, advance=advance)
            view = latencies(result)
    if not output(result, out, as_json) and view.rows:
        view.print(as_markdown)
    if result.get("interrupted"):
        raise KeyboardInterrupt(f"the {len(result['rows'])} rows of the runtimes before are whole")
    failed = [row for row in result["rows"] if "error" in row]
    if failed:
        differs = (not row["verification"]["passed"] for row in failed if "verification" in row)
        raise typer.Exit(1 if any(differs) else 2)
