"""`yolov12 paper`: the paper's tables and figures beside this build."""

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yolov12_plugin.cli import common
from yolov12_plugin.cli.common import Group, Json, Markdown, Out, one_line, output, status, to_json
from yolov12_plugin.files import check_place
from yolov12_plugin.paper.ablations import ABLATIONS

if TYPE_CHECKING:
    from yolov12_plugin.show.view import View

TABLE5 = [name for name in ABLATIONS if name.startswith("table5")]
BUILT = "FLOPs, parameters, latency"
COVERAGE = {  # command -> what of it is made or measured here, and what needs training on COCO
    "table2": (BUILT, "AP, convergence"),
    "table3": (BUILT, None),
    "table4": (BUILT, None),
    "table5c": ("FLOPs, parameters", "AP"),
    "table5h": (BUILT, None),
    "table6": (None, "AP"),
    "table7": ("presets", None),
    "figure2": ("areas, receptive fields, products", None),
    "figure3": ("blocks", None),
    "figure5": ("layers, maps of SOURCE", None),
    "ablation": (f"{BUILT}, mAP on other data", "AP, convergence"),
    "convergence": ("any runs", None),
}
ARGUMENTS = {"figure5": " [SOURCE]", "ablation": " NAME", "convergence": " RUN..."}


class Paper(Group):
    kind = "tables and figures"

    def name_of(self, given: str) -> str:
        """Also of a table by its number alone, as 5a, which `ablation` takes too."""
        return f"table{given}" if f"table{given}" in self.commands else given


app = typer.Typer(cls=Paper, help="The paper's tables and figures beside this build.", no_args_is_help=True)

Every = Annotated[bool, typer.Option("--all", help="Show all detectors of the paper, not only YOLOv12.")]
Records = Annotated[
    list[Path] | None,
    typer.Option(
        "--results", metavar="FILE...", help="Records of `yolov12 bench --out`, or folders of them, for latencies."
    ),
]
MoreRecords = Annotated[list[Path] | None, typer.Argument(metavar="FILE", hidden=True)]  # --results takes one file
Measure = Annotated[bool, typer.Option("--measure", help="Measure ratios of latency on this machine, by PyTorch.")]
Imgsz = Annotated[int, typer.Option(min=32, help="Image size of --measure, in pixels.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds of --measure, in which the networks take turns.")]
Device = Annotated[str | None, typer.Option(help="Device of --measure, as cpu, 0 or cuda:1 (default: the first GPU).")]


def show(views: "Sequence[View]", out: Path | None, as_json: bool, as_markdown: bool) -> None:
    """Print rows, as one list of JSON or as tables, and write the list where --out is for it."""
    if output([row for view in views for row in view.rows], out, as_json):
        return
    for i, view in enumerate(views):
        if i:
            typer.echo()
        view.print(as_markdown)


def contents() -> Any:
    """The tables, which take some time to import."""
    from yolov12_plugin.paper import contents

    return contents


def table(name: str, about: str | None = None, **parts: Callable[..., Any]) -> Callable[..., None]:
    """Make a command of a function that returns views: it prints them.

    It has the function's options, then those of the `parts`, of which the function gets what each makes of them, then
    --json and --markdown; and --out for the rows, where the function has none of that name for a picture.
    """

    def options(of: Callable[..., Any]) -> dict[str, inspect.Parameter]:
        return {key: option for key, option in inspect.signature(of).parameters.items() if key not in parts}

    def add(make: Callable[..., "list[View]"]) -> None:
        def command(**given: Any) -> None:
            with one_line(), status(f"{name} ..."):
                if for_rows and given["out"]:
                    check_place(given["out"])
                made = {part: of(**{key: given[key] for key in options(of)}) for part, of in parts.items()}
                views = make(**{key: given[key] for key in options(make)}, **made)
            show(views, given["out"] if for_rows else None, given["as_json"], given["as_markdown"])

        for_rows = [] if "out" in options(make) else [has_out]
        sources: list[Callable[..., Any]] = [make, *parts.values(), *for_rows, has_form]
        every = {key: option for of in sources for key, option in options(of).items()}
        command.__signature__ = inspect.Signature(list(every.values()))  # type: ignore[attr-defined]
        app.command(name, help=about or make.__doc__)(command)

    return add


def has_out(out: Out = None) -> bool:
    return out is not None


def has_form(as_json: Json = False, as_markdown: Markdown = False) -> bool:
    return as_json or as_markdown


def records(results: Records = None, more: MoreRecords = None) -> Any:
    from yolov12_plugin.paper.tables import read_all

    return read_all([*(results or []), *(more or [])])


def measurement(measure: Measure = False, imgsz: Imgsz = 640, rounds: Rounds = 15, device: Device = None) -> Any:
    from yolov12_plugin.paper.networks import Measurement

    return Measurement.of(imgsz, rounds, device) if measure else None


@table("list")
def list_all(context: typer.Context) -> "list[View]":
    """List the tables and figures, what of each is made or measured here, and what needs training on COCO."""
    from yolov12_plugin.show.view import View

    commands: dict[str, Any] = context.parent.command.commands  # type: ignore[union-attr]
    rows = []
    for name, command in commands.items():
        if name != "list":
            here, coco = COVERAGE.get(name, (BUILT, "AP"))
            rows.append(
                {
                    "name": name,
                    "command": f"yolov12 paper {name}{ARGUMENTS.get(name, '')}",
                    "about": command.help.partition("\n")[0].rstrip("."),
                    "here": here,
                    "coco": coco,
                }
            )
    columns = {"command": "Command", "about": "What", "here": "Made or measured here", "coco": "Needs COCO"}
    notes = [
        "Needs COCO: training on it, by the commands that each table prints.",
        "Latency: by --measure in PyTorch, by --results of what `yolov12 bench yolov12n yolo11n --out FILE` measured.",
        f"NAME is one of {', '.join(ABLATIONS)}.",
    ]
    return [View("The paper's tables and figures", columns, rows, notes)]


def add_table(name: str, about: str) -> None:
    """The command of a table of detectors."""

    @table(name, about, found=records, measured=measurement)
    def command(found: Any, measured: Any, every: Every = False) -> "list[View]":
        return [contents().compare(name, found, every, measured)]


def add_figure(name: str, about: str) -> None:
    """The command of a figure of detectors, which is drawn too."""
    about += "\n\nThe picture is drawn too; with --json and --markdown only if --out names it."

    @table(name, about, found=records, measured=measurement, formed=has_form)
    def command(
        found: Any,
        measured: Any,
        formed: bool,
        out: Annotated[Path | None, typer.Option(help=f"File for the picture (default: {name}.png).")] = None,
        every: Every = False,
    ) -> "list[View]":
        from yolov12_plugin.paper import figures
        from yolov12_plugin.show import pictures

        picture = out or (None if formed else Path(f"{name}.png"))
        if picture:
            pictures.write(lambda: figures.FIGURES[name](found), picture)
        view = contents().compare(name, found, every, measured)
        if picture:
            view.notes.append(f"Picture: {picture}")
        return [view]


def add_ablations(name: str, tables: Sequence[str], about: str) -> None:
    """The command of one ablation, or of several."""
    table(name, about, measured=measurement)(lambda measured: [contents().vary(part, measured) for part in tables])


def add_ablation(name: str) -> None:
    add_ablations(name, [name], f"Table {name.removeprefix('table')}: {ABLATIONS[name].title}.")


add_table("table1", "Table 1: FLOPs, parameters, AP and T4 latency of detectors.")
add_ablation("table2")
add_ablation("table3")
add_table("table4", "Table 4: latency at FP32 and FP16 on three GPUs.")


add_ablations("table5", TABLE5, "Table 5: all of 5a to 5h.")
for part in TABLE5:
    add_ablation(part)


table("table6", "Table 6: AP of YOLOv12, also by size of the objects.")(lambda: [contents().table6()])
table("table7", "Table 7: hyperparameters, and whether the presets have them.")(lambda: [contents().table7()])
add_figure("figure1", "Figure 1: AP against latency and FLOPs.")


def add_diagram(name: str, about: str) -> None:
    """The command of a figure that shows modules."""

    @app.command(name, help=about)
    def command(
        out: Annotated[Path, typer.Option(help="File for the picture.")] = Path(f"{name}.png"), as_json: Json = False
    ) -> None:
        with one_line(), status(f"{name} ..."):
            from yolov12_plugin.paper import diagrams

            getattr(diagrams, name)(out)
        typer.echo(to_json({"picture": str(out)}) if as_json else str(out))


add_diagram("figure2", "Figure 2: area attention.")
add_diagram("figure3", "Figure 3: R-ELAN and the blocks that it is compared with.")
add_figure("figure4", "Figure 4: AP against parameters and latency on CPUs.")


@table("figure5")
def figure5(
    source: Annotated[
        str | None, typer.Argument(help="An image, a video, or a folder of them, for which maps are drawn.")
    ] = None,
    out: Annotated[Path, typer.Option(help="A .png file, or a folder.")] = Path("figure5.png"),
) -> "list[View]":
    """Figure 5: heat maps of the third stage of YOLOv10-X, YOLO11-X, YOLOv12-X."""
    view = contents().figure5()
    if source is not None:
        from yolov12_plugin.explain.heatmap import heatmaps
        from yolov12_plugin.paper.figures import XS

        models = [f"{name}.pt" for name in XS]
        drawn = heatmaps(models, source, out=out, report=lambda line: typer.echo(line, err=True))
        view.notes = [f"Picture: {picture}" for picture in drawn["pictures"]]
    return [view]


@app.command()
def ablation(
    name: Annotated[str, typer.Argument(help="Name of the ablation, as table2, 2, table5a or 5a.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE...]", help="Other arguments of the training, as lr0=0.01 or cfg=FILE."),
    ] = None,
    measure: Measure = False,
    rounds: Rounds = 15,
    data: Annotated[str | None, typer.Option(help="Train the variants on this dataset YAML.")] = None,
    variants: Annotated[
        list[str] | None, typer.Option(help="Variants to train, as n-elan or 'n*', several with commas (default: all).")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of each training, in place of the paper's 600 (default: 100).")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images in a batch (default: 16).")] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", min=0, help="Seed of a training, given once or more (default: 0).")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that load images.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for runs, table and curves (default: ablation-NAME).")
    ] = None,
    imgsz: Annotated[
        int | None, typer.Option(min=32, help="Image size of --data or --measure, in pixels (default: 640).")
    ] = None,
    device: common.Device = None,
    as_json: Json = False,
    as_markdown: Markdown = False,
) -> None:
    """Show an ablation of Tables 2, 3 and 5, or train its variants on --data with equal seeds and budget.

    Run the same command again to continue after an interruption. Exit code 1 means that a variant failed, or that its
    numbers were no longer finite.
    """
    names = TABLE5 if name.lower().removeprefix("table") == "5" else [name]
    budget: dict[str, Any] = {"epochs": epochs, "batch": batch, "workers": workers}
    with one_line():
        check_training(names, data, measure, {**budget, "variants": variants, "seed": seeds, "out": out}, words)
    if data is None:
        with one_line(), status(f"{name} ..."):
            measured = measurement(measure, imgsz or 640, rounds, device)
            views = [contents().vary(part, measured) for part in names]
        show(views, None, as_json, as_markdown)
        return
    budget |= {"imgsz": imgsz, "device": device}
    given = {key: value for key, value in budget.items() if value is not None}
    chosen = [slug for part in variants or [] for slug in part.split(",") if slug]
    results = train(name, data, out, chosen, seeds or [0], words or [], given)
    if as_json:
        typer.echo(to_json(results))
    else:
        from yolov12_plugin.paper.training import view

        view(results).print(as_markdown)
    if results["failed"]:
        raise typer.Exit(1)


def check_training(
    names: Sequence[str], data: str | None, measure: bool, given: dict[str, Any], words: Sequence[str] | None
) -> None:
    """Raises NotRunnable where options do not go together."""
    from yolov12_plugin.errors import NotRunnable

    if data is None:
        options = [f"--{key}" for key, value in given.items() if value is not None] + [*(words or [])]
        if options:
            raise NotRunnable(f"{options[0]} is of a training: name its dataset by --data, as --data shapes.yaml")
    elif measure:
        raise NotRunnable("--measure and --data are two commands: name one of them")
    elif len(names) > 1:
        raise NotRunnable(f"a training is of one table: name one of {', '.join(names)}")


def train(
    name: str,
    data: str,
    out: Path | None,
    variants: Sequence[str],
    seeds: Sequence[int],
    words: Sequence[str],
    given: dict[str, Any],
) -> dict[str, Any]:
    """The results of an ablation that is trained, shown on the standard error as it goes on."""
    from rich.console import Console
    from rich.progress import Progress

    def report(line: str) -> None:
        progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def advance(what: str, done: int, total: int) -> None:
        progress.update(bar, description=what, completed=done, total=total)

    console = Console(stderr=True)
    try:
        with one_line(), Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
            from yolov12_plugin.paper import ablations, training

            bar = progress.add_task(name, total=None)
            table = ablations.ablation(name)
            return training.train_ablation(
                table,
                data,
                out or Path(f"ablation-{table.name}"),
                variants=variants,
                seeds=seeds,
                report=report,
                advance=advance,
                **training.read_words(words) | given,
            )
    except KeyboardInterrupt as e:
        raise type(e)("the same command goes on from here") from e


@app.command()
def convergence(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run folders or results.csv files, each also as NAME=PATH.")
    ],
    out: Annotated[Path, typer.Option(help="File for the picture: .png, .svg or .pdf.")] = Path("convergence.png"),
    as_json: Json = False,
) -> None:
    """Draw losses, mAP and learning rate of several Ultralytics runs on one sheet.

    --json prints their last and best epochs.
    """
    from yolov12_plugin.show.convergence import read_runs, write

    with one_line():
        found = read_runs(runs, report=lambda line: typer.echo(line, err=True))
        write(found, out)
    if as_json:
        typer.echo(to_json({"picture": str(out), "runs": [run.summary() for run in found]}))
        return
    typer.echo(str(out))
