"""Trainings of an ablation's variants on one's own data: equal seeds and budget, resumable, one table and one sheet."""

import difflib
import fnmatch
import functools
import gc
import io
import itertools
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import ultralytics
import yaml
from ultralytics import YOLO
from ultralytics.cfg import DEFAULT_CFG_DICT, get_cfg, smart_value
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils.checks import check_yaml
from ultralytics.utils.torch_utils import select_device

from yolov12_plugin.checkpoints.trust import check
from yolov12_plugin.errors import CheckpointError, NotRunnable, RunError, choices, first_line
from yolov12_plugin.files import write_checkpoint, write_text
from yolov12_plugin.nets import gflops
from yolov12_plugin.nn.attention import attention_backend
from yolov12_plugin.paper.ablations import Ablation, Variant
from yolov12_plugin.paper.leftovers import put_back, set_aside
from yolov12_plugin.process import undisturbed
from yolov12_plugin.show.convergence import CSV, Run, read_runs, write
from yolov12_plugin.show.view import View
from yolov12_plugin.training.guard import TrainingGuard
from yolov12_plugin.training.presets import leave_out, read

RESULTS, TABLE, SHEET = "results.json", "results.md", "ablation.png"
EPOCHS = 600  # the paper's, for which `epochs` stands
METRICS = {name: f"metrics/{name}(B)" for name in ("mAP50-95", "mAP50")}
# What the ablation sets itself, or what would make budgets unequal.
OURS = (
    *("data", "seed", "deterministic", "time", "cfg"),
    *("model", "mode", "task", "project", "name", "exist_ok", "save_dir", "save", "resume"),
)
# What changes no result, so that others may go on with a folder.
INDIFFERENT = ("device", "workers", "cache", "plots", "verbose", "save_period")
NOT_FINITE = "losses not finite"
Record = dict[str, Any]


class LossesNotFinite(RuntimeError):
    """A training lost its numbers; the message is one line with where."""


@dataclass(frozen=True)
class Trial:
    """The training of a variant with one seed, in a run folder of Ultralytics."""

    variant: Variant
    seed: int
    epochs: int
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def last(self) -> Path:
        return self.folder / "weights/last.pt"

    @property
    def is_finished(self) -> bool:
        """Whether Ultralytics ended it, by its epochs or by `patience`: what it does last is to strip checkpoints."""
        best = self.last.with_name("best.pt")
        end = self.last if self.last.exists() else best
        return best.exists() and curve(self.folder) is not None and epochs_in(end) == 0

    @property
    def begun(self) -> int:
        """The epochs in a last.pt that can be gone on with; 0 where there is none."""
        epochs = epochs_in(self.last) or 0
        return epochs if epochs < self.epochs else 0


def train_ablation(
    ablation: Ablation,
    data: str,
    out: Path,
    *,
    variants: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    report: Callable[[str], None] = print,
    advance: Callable[[str, int, int], None] = lambda what, done, total: None,
    **arguments: Any,
) -> Record:
    """Train the variants of a table on `data` by stock Ultralytics, all with the same seeds, epochs and arguments.

    `out` gets a run folder for each training (SLUG, and SLUG-seedN for a seed other than 0), and `results.json`, which
    is what is returned, `results.md` and `ablation.png`, anew after each. The same call again goes on, however the
    first was ended: what is finished or lost its numbers stays as it is, what was begun goes on from its last.pt, and
    what failed is tried again. Other variants and seeds are added to the folder.

    `epochs` stands for the paper's 600: of Table 5c, whose variable they are, 300, 500, 600 and 800 become as many in
    proportion. Attention is computed by a variant's own backend where that is the variable (Table 5h).

    Args:
        data: a dataset YAML for detection.
        variants: slugs, or globs of them as `n*`; by default all.
        report: takes what happens, line by line.
        advance: takes a description, and the epochs that are done and to do in all.
        arguments: of Ultralytics' training, as `epochs`, `imgsz`, `batch`, `device`, `lr0`; `cfg` names a file of them.

    Raises:
        NotRunnable: nothing was trained, as variants, data or arguments do not serve, or `out` was made with others.
        OSError: `cfg` is not there, or the results could not be written.
    """
    out = out.resolve()  # Ultralytics puts a relative project into its own folder of runs
    chosen = pick(ablation, variants)
    arguments = read_arguments(data, arguments)
    budgets = scale_epochs(ablation, arguments["epochs"], report)
    trials = [
        Trial(variant, seed, budgets[variant.epochs], out / (f"{variant.slug}-seed{seed}" if seed else variant.slug))
        for seed in dict.fromkeys(seeds)
        for variant in chosen
    ]
    with undisturbed():
        check_machine(ablation, arguments)
        results = open_folder(out, ablation, arguments, budgets, {trial.name for trial in trials})
        total = sum(trial.epochs for trial in trials)

        def tell(trial: Trial, done: int, epochs: int) -> None:
            advance(trial.name, done + epochs, total)

        for i, trial in enumerate(trials):
            done = sum(other.epochs for other in trials[:i])
            trained = try_out(trial, results, arguments, report, functools.partial(tell, trial, done))
            if trained or trial is trials[-1]:
                draw(out, results)
            tell(trial, done, trial.epochs)
    return results


def pick(ablation: Ablation, names: Sequence[str]) -> list[Variant]:
    """The variants whose slugs match any of `names`, all of them by default.

    Raises:
        NotRunnable: one of the names matches none.
    """
    slugs = [variant.slug for variant in ablation.variants]
    for name in names:
        if not fnmatch.filter(slugs, name):
            raise NotRunnable(f"{ablation.name} has no variant {name}; {choices(name, slugs, 'variants')}")
    wanted = names or ("*",)
    return [v for v in ablation.variants if any(fnmatch.fnmatchcase(v.slug, name) for name in wanted)]


def read_words(words: Sequence[str]) -> Record:
    """Arguments given as KEY=VALUE, by the rules of the `yolo` command.

    Raises:
        NotRunnable: a word has no `=`, or no value.
    """
    pairs = [word.partition("=") for word in words]
    for word, (key, _, value) in zip(words, pairs):
        if not (key and value):
            raise NotRunnable(f"{word} is no argument of a training: it must be KEY=VALUE, as lr0=0.01")
    return {key: smart_value(value) for key, _, value in pairs}


def read_arguments(data: str, named: Record) -> Record:
    """Arguments that Ultralytics' training takes, those of the file `cfg` among them; what is named wins.

    Raises:
        NotRunnable: an argument is unknown, is none that can be chosen here, or has a value that cannot be.
        OSError: `cfg` is not there.
    """
    arguments: Any = {}
    if "cfg" in named:
        try:
            arguments = read(Path(check_yaml(named["cfg"])))
        except (AssertionError, UnicodeDecodeError, yaml.YAMLError):  # the first where its suffix is another
            arguments = []
        if not isinstance(arguments, dict):
            raise NotRunnable(f"{named['cfg']} is no YAML file of arguments, with lines as `lr0: 0.01`")
        leave_out(arguments, DEFAULT_CFG_DICT)
        arguments = {key: value for key, value in arguments.items() if key not in OURS}
    named = {key: value for key, value in named.items() if key != "cfg"}
    for key in arguments | named:
        if key in OURS:
            what = f"name it by --{key}" if key in ("data", "seed") else "an ablation sets it, for all variants alike"
            raise NotRunnable(f"{key} is no argument to choose here: {what}")
        if key not in DEFAULT_CFG_DICT:
            near = difflib.get_close_matches(key, DEFAULT_CFG_DICT, 1)
            hint = f"did you mean {near[0]}?" if near else "`yolo cfg` lists them"
            raise NotRunnable(f"{key} is no argument of Ultralytics' training: {hint}")
    arguments = {key: DEFAULT_CFG_DICT[key] for key in ("epochs", "imgsz", "batch")} | arguments | named
    for key in "epochs", "batch":  # Ultralytics would choose a batch below 1 by the model
        if not isinstance(arguments[key], int) or arguments[key] < 1:
            raise NotRunnable(f"{key}={arguments[key]} must be an integer of at least 1, equal for all variants")
    try:
        get_cfg(overrides=dict(arguments))
    except (TypeError, ValueError, SyntaxError) as e:
        raise NotRunnable(first_line(e)) from e
    return arguments | {"data": str(Path(data).resolve()) if Path(data).is_file() else data}


def scale_epochs(ablation: Ablation, epochs: int, report: Callable[[str], None]) -> dict[int, int]:
    """Epochs of the paper -> epochs here, in proportion.

    Raises:
        NotRunnable: `epochs` are too few to tell the table's trainings apart.
    """
    paper = sorted({variant.epochs for variant in ablation.variants})

    def scaled(epochs: int) -> list[int]:
        return [round(epochs * each / EPOCHS) for each in paper]

    def listed(numbers: list[int]) -> str:
        return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"

    if len(paper) > 1 and len({0, *scaled(epochs)}) <= len(paper):
        least = next(n for n in itertools.count(epochs) if len({0, *scaled(n)}) > len(paper))
        raise NotRunnable(
            f"{ablation.name} compares {listed(paper)} epochs, of which epochs={epochs} makes "
            f"{listed(scaled(epochs))}: name at least {least}"
        )
    if len(paper) > 1:
        report(f"{ablation.name}: {listed(paper)} epochs of the paper are {listed(scaled(epochs))} here")
    return dict(zip(paper, scaled(epochs)))


def check_machine(ablation: Ablation, arguments: Record) -> None:
    """Find the dataset, or make it, and the device, before anything is trained.

    Raises:
        NotRunnable: there is none.
    """
    try:
        check_det_dataset(arguments["data"])
    except Exception as e:  # of many kinds
        raise NotRunnable(f"{arguments['data']} is no dataset that can be trained on: {first_line(e)}") from e
    try:
        select_device(arguments.get("device") or "", verbose=False)
    except ValueError as e:
        raise NotRunnable(first_line(e)) from e
    if varies_backend(ablation) and has_processes(arguments):
        raise NotRunnable(f"{ablation.name} varies attention within one process: name one device")


def varies_backend(ablation: Ablation) -> bool:
    return len({variant.backend for variant in ablation.variants}) > 1


def has_processes(arguments: Record) -> bool:
    """Whether Ultralytics trains in processes of its own, one for each device."""
    device = arguments.get("device")
    return len(device if isinstance(device, list | tuple) else str(device).split(",")) > 1


def open_folder(out: Path, ablation: Ablation, arguments: Record, budgets: dict[int, int], names: set[str]) -> Record:
    """The results so far, of which a new folder has none; `names` are of folders that will be trained in.

    Raises:
        NotRunnable: the folder is of something else, or something was trained there with other arguments.
    """
    if out.exists() and not out.is_dir():
        raise NotRunnable(f"{out} is no folder: name another")
    results: Record = {
        "ablation": ablation.name,
        "title": ablation.title,
        "arguments": {key: value for key, value in arguments.items() if key not in INDIFFERENT},
        "versions": {"ultralytics": ultralytics.__version__, "torch": torch.__version__},
        "failed": [],
        "variants": [
            {
                "variant": variant.label,
                "slug": variant.slug,
                "model": variant.model,
                "backend": variant.backend if varies_backend(ablation) else None,
                "epochs": budgets[variant.epochs],
                "parameters": None,
                "gflops": None,
                "ap_paper": variant.ap,
                "converges_paper": variant.converges,
                "runs": [],
            }
            for variant in ablation.variants
        ],
    }
    file = out / RESULTS
    if not file.exists():
        if taken := sorted(name for name in names if (out / name).exists()):
            raise NotRunnable(f"{out} has {taken[0]}, and no {RESULTS} that says how it was made: name another folder")
        out.mkdir(parents=True, exist_ok=True)
        return results
    try:
        old = json.loads(file.read_text(encoding="utf-8"))
        before: Record = {"ablation": old["ablation"], **old["arguments"]}
        known = {variant["slug"]: variant for variant in old["variants"]}
        runs = [run for variant in old["variants"] for run in variant["runs"]]
        trained = any((out / run["folder"] / CSV).exists() for run in runs)
    except (ValueError, KeyError, TypeError) as e:
        raise NotRunnable(f"{file} is none of an ablation: name another folder") from e
    if not trained:
        return results
    now: Record = {"ablation": ablation.name, **json.loads(json.dumps(results["arguments"]))}
    pairs = {key: [each.get(key, DEFAULT_CFG_DICT.get(key)) for each in (before, now)] for key in before | now}
    if other := [f"{key} is {there} there and {here} here" for key, (there, here) in pairs.items() if there != here]:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise NotRunnable(
            f"{out} was trained with other arguments: {', '.join(other[:3])}{more}; name another folder for these"
        )
    for variant in results["variants"]:
        variant |= {key: known.get(variant["slug"], variant)[key] for key in ("parameters", "gflops", "runs")}
    return results


def try_out(
    trial: Trial,
    results: Record,
    arguments: Record,
    report: Callable[[str], None],
    advance: Callable[[int], None],
) -> bool:
    """Train a variant as far as it is not, and write down what came of it; whether there was something to train."""
    out = trial.folder.parent
    variant = next(variant for variant in results["variants"] if variant["slug"] == trial.variant.slug)
    runs = {run["seed"]: run for run in variant["runs"]}
    run = runs.setdefault(trial.seed, {"seed": trial.seed, "folder": trial.name, "status": "unfinished", "resumed": 0})
    variant["runs"] = [runs[seed] for seed in sorted(runs)]
    before = run["status"] == NOT_FINITE and trial.folder.exists()
    try:
        put_back(trial.folder)
        finished = before or trial.is_finished
        begun = 0 if finished else trial.begun
    except (NotRunnable, OSError, MemoryError) as e:  # tried again with the next call
        run |= {"status": "failed", "reason": first_line(e), "losses_finite": None}
        report(f"{trial.name}: {said(run)}")
        results["failed"].append(trial.name)
        write_results(out, results)
        return False
    if begun:
        report(f"{trial.name}: goes on after epoch {begun} of {trial.epochs}")
        run["resumed"] += 1
    elif not finished:
        run["resumed"] = 0
        again = ", from the start again" if trial.folder.exists() else ""
        report(f"{trial.name}: {trial.epochs} epochs of {trial.variant.model}.yaml{again}")
    if not finished:
        run |= {"status": "unfinished", "losses_finite": None, "reason": None, **scores(trial.folder)}
        write_results(out, results)
    guard = TrainingGuard()
    try:
        if variant["parameters"] is None:
            variant |= size(trial.variant)
        if not finished:
            with attention_backend(variant["backend"]) if variant["backend"] else nullcontext():
                train(trial, begun, arguments, guard, advance)
        if not before:
            check_losses(trial.folder)
            run |= {"status": "trained", "reason": None}
    except LossesNotFinite as e:
        run |= {"status": NOT_FINITE, "reason": str(guard.found[0] if guard.found else e)}
    except Exception as e:
        kind = "" if isinstance(e, NotRunnable | OSError) else f"{type(e).__name__}: "
        run |= {"status": "failed", "reason": kind + first_line(e)}
    gc.collect()  # a trainer is in cycles, and holds the memory of a GPU
    run |= {"losses_finite": {"trained": True, NOT_FINITE: False}.get(run["status"]), **scores(trial.folder)}
    report(f"{trial.name}: {'before: ' if finished else ''}{said(run)}")
    if before:
        report(f"{trial.name}: is trained again if you delete {trial.folder}")
    if not run["losses_finite"]:
        results["failed"].append(trial.name)
    write_results(out, results)
    return not finished


def size(variant: Variant) -> Record:
    """Parameters and GFLOPs (640 pixels) of the fused model with the classes of its YAML."""
    net: Any = YOLO(f"{variant.model}.yaml", task="detect").model
    net = net.eval().fuse(verbose=False)
    return {"parameters": sum(p.numel() for p in net.parameters()), "gflops": round(gflops(net), 1)}


def train(trial: Trial, begun: int, arguments: Record, guard: TrainingGuard, advance: Callable[[int], None]) -> None:
    """Train by stock Ultralytics, from last.pt where it has `begun`.

    Raises:
        LossesNotFinite: the loss was not finite as the training failed.
        NotRunnable: the batch does not fit into memory.
    """

    def same_batch(trainer: Any) -> None:
        if trainer.batch_size != arguments["batch"]:  # Ultralytics halves what does not fit
            raise NotRunnable(f"batch={arguments['batch']} does not fit into memory; name a smaller one for all")

    model: Any = YOLO(trial.last if begun else f"{trial.variant.model}.yaml", task="detect")
    guard.attach(model)
    if not has_processes(arguments):  # which get callbacks by pickling
        model.add_callback("on_train_batch_start", same_batch)
        model.add_callback("on_train_epoch_end", lambda trainer: advance(trainer.epoch + 1))
    own: Record = {"resume": True}
    if begun:  # the rest is in the checkpoint
        settle(trial)
        own |= {key: arguments[key] for key in ("data", "device", "workers") if key in arguments}
    else:
        own = arguments | {"epochs": trial.epochs, "seed": trial.seed, "deterministic": True}
        own |= {"project": str(trial.folder.parent), "name": trial.name, "exist_ok": True}
    try:
        with nullcontext() if begun else set_aside(trial.folder):
            model.train(**own)
    except Exception as e:
        loss = getattr(model.trainer, "loss", None)
        if loss is not None and not torch.isfinite(loss):
            raise LossesNotFinite(first_line(e)) from e
        raise


def settle(trial: Trial) -> None:
    """Let last.pt go on in the folder that it is in: Ultralytics does in the one where it was begun."""
    checkpoint = torch.load(trial.last, map_location="cpu", weights_only=False)
    if checkpoint["train_args"]["save_dir"] != str(trial.folder):
        checkpoint["train_args"]["save_dir"] = str(trial.folder)
        write_checkpoint(trial.last, checkpoint)


def check_losses(folder: Path) -> None:
    """Raises LossesNotFinite where a training lost its numbers, and Ultralytics went on all the same."""
    [run] = read_runs([f"{folder.name}={folder}"])
    numbers = [values for key, values in run.columns.items() if key.startswith(("train/", "metrics/"))]
    bad = ~np.all(np.isfinite(numbers), axis=0)
    if bad.any():
        raise LossesNotFinite(f"the loss is not finite in epoch {run.epochs[bad.argmax()]:g}")


def curve(folder: Path) -> Run | None:
    """What a run has written of its epochs, None before the first is whole."""
    try:
        return read_runs([f"{folder.name}={folder}"])[0]
    except RunError:
        return None


def epochs_in(checkpoint: Path) -> int | None:
    """Epochs after which a checkpoint can be gone on with; 0 of one that has ended, None of none, or a damaged one.

    Raises:
        NotRunnable: it may be whole, but cannot be read here and now.
    """
    try:
        data = io.BytesIO(checkpoint.read_bytes())
        check(checkpoint)
        content = torch.load(data, map_location="cpu", weights_only=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as e:  # of many kinds; PyTorch says of a lack of memory what it says of damage
        if not isinstance(e, OSError | MemoryError) and is_damaged(data):
            return None
        if isinstance(e, CheckpointError):
            raise
        reason = f"{type(e).__name__}: {first_line(e)}"
        raise NotRunnable(f"{checkpoint} cannot be read now ({reason}); nothing was changed, so try again") from e
    return content["epoch"] + 1 if isinstance(content, dict) and isinstance(content.get("epoch"), int) else None


def is_damaged(data: io.BytesIO) -> bool:
    """Whether it is not the whole archive that PyTorch writes."""
    try:
        return zipfile.ZipFile(data).testzip() is not None
    except (zipfile.BadZipFile, zlib.error, EOFError, OverflowError, RuntimeError, ValueError):
        return True


def scores(folder: Path) -> Record:
    """Epochs, mAP (0 to 1) of the best and the last, and the median of seconds an epoch, with its validation."""
    run = curve(folder)
    if run is None:
        return {"epochs": 0, "best": None, "last": None, "seconds_per_epoch": None}
    rows: Record = {}
    for when in "best", "last":
        row = run.summary()[when] or {}
        rows[when] = {"epoch": row.get("epoch"), **{name: row.get(key) for name, key in METRICS.items()}}
    time = run.columns["time"]
    took = np.diff(time, prepend=0)
    took = np.where(took > 0, took, time)  # a resumed training counts from its own start
    return {"epochs": len(run.epochs), **rows, "seconds_per_epoch": round(float(np.median(took)), 2)}


def said(run: Record) -> str:
    """A run in a line."""
    if run["status"] != "trained":
        return ": ".join(filter(None, (run["status"], run["reason"])))
    best = run["best"]
    return f"mAP50-95 {best['mAP50-95']:.3f} in epoch {best['epoch']}, {run['seconds_per_epoch']:.1f} s an epoch"


def write_results(out: Path, results: Record) -> None:
    """Write record and table, each whole or as it was."""
    for variant in results["variants"]:
        ended = [run for run in variant["runs"] if run["status"] != "unfinished"]
        trained = [run for run in ended if run["losses_finite"]]
        variant["losses_finite"] = len(trained) == len(ended) if ended else None
        for key in METRICS:
            variant[key] = mean([run["best"][key] for run in trained])
        variant["last"] = mean([run["last"]["mAP50-95"] for run in trained])
        variant["seconds_per_epoch"] = mean([run["seconds_per_epoch"] for run in trained])
    write_text(out / RESULTS, json.dumps(results, indent=2) + "\n")
    write_text(out / TABLE, page(results))


def draw(out: Path, results: Record) -> None:
    """Draw the sheet of all runs that have ended an epoch."""
    folders = [out / run["folder"] for variant in results["variants"] for run in variant["runs"]]
    try:
        runs = [run for run in map(curve, folders) if run is not None]
    except (OSError, MemoryError):  # of a disk that fails for once: drawn by the next call
        return
    if runs:
        write(runs, out / SHEET)


def mean(values: Sequence[float]) -> float | None:
    return round(fmean(values), 5) if values else None


COLUMNS = {
    "variant": "Variant",
    "parameters": "Params (M)",
    "gflops": "FLOPs (G)",
    "epochs": "Epochs",
    "mAP50-95": "mAP50-95",
    "each": "of each seed",
    "mAP50": "mAP50",
    "last": "mAP50-95, last",
    "best_epoch": "Best epoch",
    "seconds_per_epoch": "s/epoch",
    "losses_finite": "Losses finite",
    "ap_paper": "COCO AP (paper)",
    "converges_paper": "Converges (paper)",
}


def view(results: Record) -> View:
    """The table: mAP in %, the mean over the seeds that were trained, and what a reader must know of it."""

    def percent(value: float | None) -> float | None:
        return None if value is None else round(100 * value, 1)

    rows = []
    for variant in results["variants"]:
        runs = variant["runs"]
        marks = [{True: "✓", False: "✗"}.get(run["losses_finite"], run["status"]) for run in runs]
        each = [str(percent(run["best"]["mAP50-95"])) if run["losses_finite"] else "–" for run in runs]
        took = variant["seconds_per_epoch"]
        rows.append(
            variant
            | {key: percent(variant[key]) for key in ("mAP50-95", "mAP50", "last")}
            | {
                "parameters": variant["parameters"] and round(variant["parameters"] / 1e6, 1),
                "each": ", ".join(each) if len(runs) > 1 else None,
                "best_epoch": ", ".join(str(run["best"]["epoch"]) for run in runs if run["losses_finite"]) or None,
                "seconds_per_epoch": took and round(took, 1),
                "losses_finite": " ".join(marks) or "not trained",
            }
        )
    number = results["ablation"].removeprefix("table")
    return View(f"Table {number}: {results['title']}", COLUMNS, rows, notes(results))


def notes(results: Record) -> list[str]:
    arguments = results["arguments"]
    runs = [run for variant in results["variants"] for run in variant["runs"]]
    seeds = ", ".join(map(str, sorted({run["seed"] for run in runs})))
    lines = [
        f"Trained on {Path(arguments['data']).name} with epochs={arguments['epochs']} imgsz={arguments['imgsz']} "
        f"batch={arguments['batch']}, seed {seeds}. mAP (%) is that of the best epoch on its validation images.",
        "Parameters and FLOPs are those of the fused model with 80 classes, at 640 pixels.",
        f"(paper): on COCO val2017, after {EPOCHS} epochs on COCO, or as many as the row names.",
    ]
    lines.append(
        "Losses finite: no loss and no metric was NaN or infinite. That is less than the paper's convergence, which is "
        f"that of {EPOCHS} epochs on COCO."
    )
    if nothing := [run["folder"] for run in runs if run["losses_finite"] and not run["best"]["mAP50-95"]]:
        lines.append(f"mAP 0 in every epoch, so nothing was learned that is seen yet: {', '.join(nothing)}.")
    lines += [f"{run['folder']}: {said(run)}" for run in runs if run["status"] != "trained"]
    return lines + [f"{run['folder']}: times that it was resumed: {run['resumed']}" for run in runs if run["resumed"]]


def page(results: Record) -> str:
    """The table in Markdown, with what is said of it and the sheet."""
    shown = view(results)
    listed = "".join(f"- {note}\n" for note in shown.notes)
    return f"# {shown.title}\n\n{shown.markdown()}\n{listed}\n![]({SHEET})\n"
