"""The `yolov12` command."""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Tools for YOLOv12 in Ultralytics.", no_args_is_help=True, add_completion=False)
paper = typer.Typer(help="The paper's tables beside this build.", no_args_is_help=True)
app.add_typer(paper, name="paper")


@app.callback()
def main() -> None:
    """Tools for YOLOv12 in Ultralytics; models are built, trained and exported by `yolo` itself."""
    os.environ.setdefault("YOLO_VERBOSE", "false")  # Ultralytics logs to the standard output, where the tables go
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # what is missing is said
    os.environ.pop("YOLO12_BENCH", None)  # of `yolo export`; what `bench` exports, it verifies itself


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Trust = Annotated[bool, typer.Option("--trust", help="Execute what the file carries. Only if you know who made it.")]


@contextmanager
def one_line() -> Iterator[None]:
    """End with exit code 2 and one line on the standard error where a file is not what was asked for.

    The progress of a download goes there too: the standard output is for tables.
    """
    from yolov12_plugin.errors import NotRunnable
    from yolov12_plugin.safe_load import CheckpointError

    try:
        with redirect_stdout(sys.stderr):
            yield
    except (CheckpointError, NotRunnable, OSError) as e:
        typer.echo(f"Error: {e}", err=True)
        raise typer.Exit(2) from e


@app.command()
def doctor(
    checkpoint: Annotated[str | None, typer.Argument(help="A .pt file, or a name as yolov12n-turbo.pt.")] = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """What is installed, and which attention each device computes; or what a CHECKPOINT holds."""
    from rich.console import Console
    from rich.table import Table

    from yolov12_plugin.doctor import report

    if checkpoint is not None:
        show_checkpoint(checkpoint, trust, as_json)
        return
    found = report()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    versions = Table("Package", "Version", title="Installed")
    for name, number in found["versions"].items():
        versions.add_row(name, number or "–")
    attention = Table("Device", "", "dtype", "Selected", "Attention", "flash-attn, or why not", title="Attention")
    for row in found["attention"]:
        attention.add_row(*row.values())
    console = Console()
    console.print(versions, attention)
    console.print("The plugin is registered." if found["registered"] else "The plugin is not registered.")


def show_checkpoint(checkpoint: str, trust: bool, as_json: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from yolov12_plugin.checkpoints import inspect

    with one_line():
        found = inspect(checkpoint, trust)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    layout, stock = found.pop("layout"), found.pop("stock")
    table = Table(show_header=False)
    for key, value in {**found, **layout}.items():
        table.add_row(key.replace("_", " "), f"{value:,}" if key == "parameters" else escape(str(value)))
    table.add_row("on stock Ultralytics", on_stock(stock))
    Console().print(table)
    if not stock["trains"] and not layout["fused"]:
        typer.echo(f"For stock Ultralytics: yolov12 convert {shlex.quote(checkpoint)} NEW.pt --to stock")


def on_stock(stock: dict[str, Any]) -> str:
    if stock["trains"]:
        return "predicts, validates, exports and trains"
    can = "predicts, validates and exports; does not train it whole" if stock["predicts"] else "does not run"
    return f"{can}: {'; '.join(stock['why'])}"


class Form(str, Enum):
    stock = "stock"
    plugin = "plugin"


@app.command()
def convert(
    src: Annotated[str, typer.Argument(help="A .pt file, or a name as yolov12n-turbo.pt.")],
    dst: Annotated[str, typer.Argument(help="The .pt file to write.")],
    to: Annotated[Form, typer.Option(help="What shall run it: Ultralytics without the plugin, or with it.")],
    force: Annotated[bool, typer.Option("--force", help="DST may be SRC.")] = False,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint in the layout of stock Ultralytics, or as the plugin rebuilds it; exactly, or not at all."""
    from yolov12_plugin.checkpoints import convert as convert_checkpoint

    with one_line():
        done = convert_checkpoint(src, dst, to.value, force=force, trust=trust)
    if as_json:
        typer.echo(json.dumps(done, indent=2))
        return
    typer.echo(f"{dst}: {', '.join(done['changes']) or 'nothing to change'}")
    typer.echo(f"Largest difference of an output: {done['difference']:.1e}")
    typer.echo(f"Stock Ultralytics: {on_stock(done['stock'])}")
    if done["note"]:
        typer.echo(done["note"])


class Served(str, Enum):
    onnx = "onnx"
    engine = "engine"


@app.command("export-triton")
def export_triton(
    model: Annotated[str, typer.Argument(help="A .pt or .yaml, or an .onnx or .engine exported with dynamic=True.")],
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The model repository; made if it is not there.")],
    name: Annotated[str | None, typer.Option(help="By default that of MODEL.")] = None,
    to: Annotated[Served | None, typer.Option("--format", help="By default that of MODEL, else onnx.")] = None,
    imgsz: Annotated[int | None, typer.Option(min=32, help="Pixels; by default those of the training.")] = None,
    half: Annotated[bool, typer.Option("--half", help="FP16.")] = False,
    max_batch: Annotated[int, typer.Option(min=1, help="Images in one run of the model, and in one request.")] = 16,
    max_delay: Annotated[int, typer.Option(min=0, help="Microseconds that a request may wait for others.")] = 1000,
    instances: Annotated[int, typer.Option(min=1, help="Copies of the model on each GPU.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Where NAME is there, write its next version.")] = False,
) -> None:
    """Write a model folder for NVIDIA Triton Inference Server, with dynamic batching; whole, or not at all."""
    from yolov12_plugin.export import export_triton as export

    options = ({} if imgsz is None else {"imgsz": imgsz}) | ({"half": True} if half else {})
    with one_line():
        written = export(
            model,
            folder,
            name=name,
            format=to.value if to else None,
            max_batch=max_batch,
            max_delay=max_delay,
            instances=instances,
            force=force,
            **options,
        )
    typer.echo(f"{written}: tritonserver --model-repository={shlex.quote(str(written.parent.absolute()))}")
    typer.echo(f'YOLO("http://localhost:8000/{written.name}", task=...) predicts through it')


@app.command()
def bench(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Names, .yaml, .pt, or exported files.")],
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="tensorrt, onnxruntime, openvino, torch, torchscript; more than one with commas."),
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
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the record here; - prints it.")] = None,
) -> None:
    """Latency of any Ultralytics MODEL, in one interleaved run. yolo12* is stock's, exported without the plugin.

    Every model is verified on its runtime before it is timed. Exit code 1: one does not compute what PyTorch does;
    2: one does not run.
    """
    from rich.console import Console
    from rich.progress import Progress

    from yolov12_plugin.benchmark.bench import Protocol, bench, pick_options, pick_runtimes, steps_of
    from yolov12_plugin.benchmark.table import aot_table, latency_table, markdown, show
    from yolov12_plugin.errors import check_place

    models = list({str(Path(model).resolve()): model for model in models}.values())
    file = None if str(out) == "-" else out

    def advance(what: str, steps: int) -> None:
        progress.update(bar, description=what, advance=steps)

    def report(line: str) -> None:
        progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    with (
        one_line(),
        Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress,
    ):
        if file:
            check_place(file)
        bar = progress.add_task("", total=len(models))
        if aot is not None:
            from yolov12_plugin.benchmark.aot import bench_aot

            capabilities = [part.strip().lower() for part in aot.split(",") if part.strip()]
            result = bench_aot(models, capabilities, imgsz, report=report, advance=advance)
            table = aot_table(result)
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
            table = latency_table(result)
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if file:
        with one_line():
            file.write_text(text, encoding="utf-8")
    if str(out) == "-":
        typer.echo(text, nl=False)
    elif table.row_count and as_markdown:
        typer.echo(markdown(table), nl=False)
    elif table.row_count:
        show(table)
    failed = [row for row in result["rows"] if "error" in row]
    if failed:
        differs = (not row["verification"]["passed"] for row in failed if "verification" in row)
        raise typer.Exit(1 if any(differs) else 2)


class Categories(str, Enum):
    auto = "auto"
    name = "name"
    id = "id"


@app.command()
def coco(
    model: Annotated[str, typer.Argument(help="A .pt, or an exported file.")],
    data: Annotated[str | None, typer.Option(help="A dataset YAML; its COCO file is looked for in its folder.")] = None,
    split: Annotated[str, typer.Option(help="Of --data.")] = "val",
    images: Annotated[Path | None, typer.Option(help="A folder of images, or a .txt that lists them.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="Ground truth in COCO's format.")] = None,
    categories: Annotated[Categories, typer.Option(help="How classes and categories are matched.")] = Categories.auto,
    imgsz: Annotated[int | None, typer.Option(min=32, help="Pixels; by default those of the training.")] = None,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, 0, cuda:1.")] = None,
    half: Annotated[bool, typer.Option("--half", help="FP16.")] = False,
    conf: Annotated[float, typer.Option(min=0, max=1, help="Least confidence of a detection.")] = 0.001,
    iou: Annotated[float, typer.Option(min=0, max=1, help="Overlap above which suppression drops a box.")] = 0.7,
    max_det: Annotated[int, typer.Option(min=1, help="Detections an image.")] = 300,
    out: Annotated[Path | None, typer.Option(help="The JSON of detections; by default in a folder of runs.")] = None,
    as_json: Json = False,
) -> None:
    """Table 6 of a detector: AP by pycocotools on ground truth in COCO's format, beside the paper's on COCO val."""
    from rich.table import Column, Table

    from yolov12_plugin.benchmark.table import STYLE, show
    from yolov12_plugin.coco import METRICS, evaluate, images_in, images_of, scale_of
    from yolov12_plugin.errors import NotRunnable
    from yolov12_plugin.paper.published import table6

    options = {"imgsz": imgsz, "device": device} | ({"half": True} if half else {})
    with one_line():
        if data is not None and images is None:
            found, beside = images_of(data, split, annotations)
        elif data is None and images is not None and annotations is not None:
            found, beside = images_in([images]), annotations
        else:
            raise NotRunnable("name the images by --data, or by --images and --annotations")
        scale = scale_of(model)
        scores = evaluate(
            model,
            found,
            beside,
            categories=categories.value,
            detections=out,
            report=lambda line: typer.echo(line, err=True),
            batch=batch,
            conf=conf,
            iou=iou,
            max_det=max_det,
            **{key: value for key, value in options.items() if value is not None},
        )
    paper = dict(zip(METRICS, table6(scale))) if scale is not None else None
    if as_json:
        typer.echo(json.dumps(scores | {"model": model, "paper": paper}, indent=2))
    else:
        titles = [Column(name.replace("_", " "), justify="right", no_wrap=True) for name in METRICS]
        title = f"AP (%) of {scores['images']} images, {scores['annotations']} objects"
        table = Table(Column("", no_wrap=True), *titles, title=title, **STYLE)
        if scale is not None and paper is not None:
            table.add_row(f"YOLOv12-{scale.upper()} (paper)", *(f"{paper[name]:.1f}" for name in METRICS))
        table.add_row(Path(model).name, *("–" if scores[m] is None else f"{scores[m]:.1f}" for m in METRICS))
        show(table)
    if scores["not_written"]:
        typer.echo(f"Error: {scores['not_written']}; name {'another' if out else 'an'} --out", err=True)
        raise typer.Exit(2)
    if not as_json:
        typer.echo(f"{scores['detections']} detections: {scores['file']}")


@paper.command()
def table1(as_json: Json = False) -> None:
    """FLOPs and parameters of the five models as published and as built here; the paper's AP and T4 latency."""
    from rich.console import Console
    from rich.table import Column, Table

    from yolov12_plugin.paper.table1 import rows

    table = rows()
    if as_json:
        typer.echo(json.dumps(table, indent=2))
        return
    titles = ("FLOPs (G)", "built", "Params (M)", "built", "AP", "AP50", "AP75", "T4 (ms)")
    view = Table(Column("Model", no_wrap=True), *titles, title="Table 1")
    for row in table:
        view.add_row(*map(str, row.values()))
    Console().print(view)


@paper.command()
def convergence(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders or results.csv; or NAME=PATH.")],
    out: Annotated[Path, typer.Option(help="The picture to write: .png, .svg, .pdf.")] = Path("convergence.png"),
    as_json: Json = False,
) -> None:
    """Draw losses, mAP and learning rate of Ultralytics runs on one sheet; --json prints their last and best epochs."""
    from yolov12_plugin.paper.convergence import read_runs, write

    with one_line():
        found = read_runs(runs, report=lambda line: typer.echo(line, err=True))
        write(found, out)
    if as_json:
        typer.echo(json.dumps({"picture": str(out), "runs": [run.summary() for run in found]}, indent=2))
        return
    typer.echo(str(out))
