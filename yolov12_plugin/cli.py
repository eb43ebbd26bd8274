"""The `yolov12` command."""

import json
import os
import shlex
import sys
from contextlib import redirect_stdout
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from yolov12_plugin.commands import Group, Json, one_line
from yolov12_plugin.paper.cli import app as paper

app = typer.Typer(cls=Group, help="Tools for YOLOv12 in Ultralytics.", no_args_is_help=True, add_completion=False)
app.add_typer(paper, name="paper")


@app.callback()
def main(context: typer.Context) -> None:
    """Tools for YOLOv12 in Ultralytics; models are built, trained and exported by `yolo` itself."""
    os.environ.setdefault("YOLO_VERBOSE", "false")  # Ultralytics logs to the standard output, where the tables go
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # what is missing is said
    if context.invoked_subcommand != "doctor":  # which tells of it
        os.environ.pop("YOLO12_BENCH", None)  # of `yolo export`; what `bench` exports, it verifies itself


Trust = Annotated[bool, typer.Option("--trust", help="Execute what the file carries. Only if you know who made it.")]


@app.command()
def doctor(
    checkpoint: Annotated[str | None, typer.Argument(help="A .pt file, or a name as yolov12n-turbo.pt.")] = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """What is installed, registered and chosen here, and what to do where that is wrong; or what a CHECKPOINT holds.

    Exit code 1: YOLOv12 does not run here.
    """
    if checkpoint is not None:
        show_checkpoint(checkpoint, trust, as_json)
        return
    from yolov12_plugin.doctor import report

    with redirect_stdout(sys.stderr):
        found = report()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show_report(found)
    if any(finding["level"] == "error" for finding in found["findings"]):
        raise typer.Exit(1)


def show_report(found: dict[str, Any]) -> None:
    from itertools import groupby

    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from yolov12_plugin.benchmark.table import STYLE
    from yolov12_plugin.doctor import PACKAGES

    def table(title: str, *columns: str) -> Table:
        folded = (Column(column, overflow="fold") for column in columns)
        return Table(*folded, title=title, title_justify="left", **STYLE)

    versions = table("Installed", "Package", "Version")
    optional = {package.name for package in PACKAGES}  # which are among the findings
    for package, version in found["versions"].items():
        if package not in optional:
            versions.add_row(package, version or "-")
    versions.add_row("platform", found["platform"])
    devices = table("Devices", "Device", "Name", "GiB", "")
    for row in found["devices"]:
        (_, device), (_, name), (_, memory), *more = row.items()
        about = (f"{key.replace('_', ' ')} {value}" for key, value in more if value is not None)
        devices.add_row(device, name, str(memory), ", ".join(about))
    attention = table("Attention", "Device", "dtype", "Selected", "Attention", "flash-attn, or why not")
    for (device, *chosen), rows in groupby(
        found["attention"], key=lambda row: [row[key] for key in ("device", "selected", "backend", "why")]
    ):
        attention.add_row(device, ", ".join(row["dtype"] for row in rows), *chosen)
    patches = table("Registered in Ultralytics", "Attribute", "In place", "Why")
    for row in found["patches"]:
        patches.add_row(row["attribute"], "yes" if row["in_place"] else "no", row["why"])
    findings = table("Findings", "Level", "")
    findings.columns[0].no_wrap = True
    colours = {"error": "red", "warning": "yellow", "note": "cyan", "ok": "green"}
    for row in found["findings"]:
        remedy = f"\n-> {row['remedy']}" if row["remedy"] else ""
        findings.add_row(Text(row["level"], style=colours[row["level"]]), row["what"] + remedy)
    console = Console(markup=False, emoji=False)
    console.print(*(part for part in (versions, devices, attention, patches, findings) if part.row_count))
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


class Method(str, Enum):
    activation = "activation"
    eigencam = "eigencam"
    gradcam = "gradcam"
    attention = "attention"


@app.command()
def heatmap(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Names, .yaml, or .pt of any Ultralytics.")],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Image, video, folder, glob, or a .txt of paths.")],
    layer: Annotated[
        str | None,
        typer.Option(help="An index, or one for each model with commas; by default the backbone's third stage."),
    ] = None,
    method: Annotated[Method, typer.Option(help="What a map shows.")] = Method.activation,
    query: Annotated[
        str | None, typer.Option(help="X,Y of the point whose attention is shown: pixels, or fractions. The centre.")
    ] = None,
    head: Annotated[int | None, typer.Option(min=0, help="Of the attention; by default their mean.")] = None,
    block: Annotated[int | None, typer.Option(min=0, help="Of the layer's attentions; by default all.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names or indices, with commas, that gradcam is to explain; by default all.")
    ] = None,
    imgsz: Annotated[int | None, typer.Option(min=32, help="Pixels; by default those of the training, or 640.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, 0, cuda:1.")] = None,
    stride: Annotated[int, typer.Option(min=1, help="Every how many frames of a video.")] = 1,
    frames: Annotated[int, typer.Option(min=1, help="Of a video, at most.")] = 50,
    out: Annotated[Path, typer.Option(help="A .png, or a folder with a .png of each image.")] = Path("heatmap.png"),
    as_json: Json = False,
) -> None:
    """Figure 5: what a layer of each MODEL sees in SOURCE, side by side; --method attention: where a point looks."""
    from yolov12_plugin.heatmap import heatmaps, read_request

    with one_line():
        drawn = heatmaps(
            models,
            source,
            request=read_request(method.value, query, head, block, classes),
            layer=layer,
            imgsz=imgsz,
            device=device,
            stride=stride,
            frames=frames,
            out=out,
            report=lambda line: typer.echo(line, err=True),
        )
    typer.echo(json.dumps(drawn, indent=2) if as_json else "\n".join(drawn["pictures"]))
