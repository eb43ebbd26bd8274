"""Latency of any Ultralytics model on any runtime: verified first, then measured in one interleaved run.

The protocol of the paper (section 4.1: TensorRT FP16, batch 1, 640 pixels) as it is kept here:

- What is timed is the execution of the network alone, its input resident on the device; no pre- or postprocessing of
  Python. On a GPU that is the time between two CUDA events around the execution, recorded on its stream while the one
  before is still running, optionally of a CUDA graph; on a CPU it is by the clock.
- The models of a runtime take turns, every other round backwards, after `warmup` rounds. The ratio is the median over
  the rounds of a model's time over the first model's in the same round. Samples beyond three standard deviations are
  clipped.
- `latency` is the forward pass. `latency_nms`, in rounds of its own, adds Ultralytics' non-maximum suppression at the
  thresholds of its validation (`NMS`), on real images; models that need none, or have it within, have none.
- Every session is compared with PyTorch on real images before it is timed, in the very buffers that are timed then.
  What does not compute the model gets no latency; where the comparison shows little, that is said.
- A model that is untrained, as one that is named or built from YAML, has its normalisations scaled so that its outputs
  depend on the image (`verify.enliven`), or the comparison would show nothing. Weights do not change the time of a
  forward pass; they do change how much non-maximum suppression has to do.
- `yolo12*` is stock: built and exported by Ultralytics as it is without the plugin.
- Recorded with the times: GPU, driver, power limit, temperature and clocks before and after, the SM clock meanwhile and
  whether it stayed the same, as it does when it is locked, versions, and the precision that the runtime reports of what
  it built, whatever was asked for.
"""

import datetime
import importlib
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from yolov12_plugin.benchmark.machine import Clocks, gpu_state, instructions, machine, versions
from yolov12_plugin.benchmark.results import SCHEMA
from yolov12_plugin.benchmark.timing import interleave, ratios, summary
from yolov12_plugin.deploy.accuracy import by_image, compare_accuracy, images_of
from yolov12_plugin.deploy.runtimes import RUNTIMES, Runtime, open_artefact, runtime_named, runtime_of
from yolov12_plugin.deploy.runtimes.engine import TensorRT
from yolov12_plugin.deploy.runtimes.pytorch import Torch, exportable
from yolov12_plugin.deploy.runtimes.session import Options, Session, cores, in_its_words
from yolov12_plugin.deploy.tensorrt import detailed_layers
from yolov12_plugin.deploy.verify import (
    FOUND,
    SUPPRESSION,
    Verification,
    enliven,
    judge_accuracy,
    load,
    read_images,
    responds,
    selects,
    verify,
)
from yolov12_plugin.errors import NotRunnable, first_line
from yolov12_plugin.names import find
from yolov12_plugin.nets import channels, gflops, is_dense, is_rotated
from yolov12_plugin.patching import suspended
from yolov12_plugin.process import quantiser_as_it_was, seeded, undisturbed
from yolov12_plugin.published import latency as paper_latency

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
NMS = {"conf": 0.001, "iou": 0.7, "max_det": 300}


@dataclass(frozen=True)
class Protocol:
    """What a run does: pixels of a square image, images a batch, precision, rounds timed and rounds before them.

    With `int8`, a dataset, each model is made in FP32, FP16 and, `quantised`, INT8, calibrated and judged on it.
    Without `imgsz` an exported file gets what it takes, and a model `default_imgsz`, or else a classifier 224 pixels
    and any other 640; without `batch` it is one image, or what the file takes.
    """

    imgsz: int | None = None
    default_imgsz: int | None = None
    batch: int | None = None
    half: bool = False
    int8: str | None = None
    quantised: bool = False
    runs: int = 100
    warmup: int = 10
    options: Options = field(default_factory=Options)

    @property
    def precisions(self) -> list["Protocol"]:
        """The protocol of each precision that a model is made in."""
        if self.int8 is None:
            return [self]
        return [replace(self, half=False), replace(self, half=True), replace(self, half=False, quantised=True)]

    @property
    def pixels(self) -> int | None:
        """What a model is asked to take that could take any size."""
        return self.imgsz or self.default_imgsz

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        o = self.options
        own = {key: getattr(self, key) for key in ("imgsz", "batch", "half", "int8", "runs", "warmup")}
        return {**own, "threads": o.threads, "cuda_graph": o.cuda_graph, "compile": o.compile, "nms": NMS}


@dataclass
class Prepared:
    """A session that was verified with images bound, what its row says before it is timed, and its suppression."""

    session: Session
    about: dict[str, Any]
    verification: Verification
    suppress: Callable[[list[Tensor]], object] | None

    def doubts(self, name: str, protocol: Protocol) -> Iterator[str]:
        """What is to be said beside its latency: a comparison that shows little, a precision that was not asked for."""
        if self.verification.note:
            yield f"{name}: {self.verification.note}"
        if protocol.imgsz not in (None, self.about["imgsz"]):
            yield f"{name} runs at {self.about['imgsz']} pixels: its stride does not divide {protocol.imgsz}"
        runs_in = self.session.precision
        if runs_in == "unknown":
            yield f"{name} does not tell its precision: export it with YOLO12_BENCH=1 or TensorRTBenchmark().attach()"
        elif protocol.half and runs_in != "fp16":
            yield f"{name} was asked for fp16 and runs in {runs_in}"


class Candidate:
    """A model of a run: its name, the network that sessions are held against, and the exported file if it is one."""

    def __init__(self, name: str, reference: str | None = None, imgsz: int | None = None) -> None:
        self.artefact = Path(name) if runtime_of(Path(name)) else None
        if self.artefact is not None and not self.artefact.exists():
            raise NotRunnable(f"{name} does not exist")
        source = Path(name) if self.artefact is None else checkpoint_of(self.artefact, reference)
        if not source.suffix and not source.exists():
            source = Path(f"{source}.yaml")
        self.stock = source.name.startswith("yolo12")
        self.trained = source.suffix == ".pt"
        self.name = source.stem if self.artefact is None else self.artefact.name
        with suspended() if self.stock else nullcontext(), seeded():  # the same weights on stock and on the plugin
            self.yolo = load(source)
        self.net: Any = self.yolo.model
        if not isinstance(self.net, nn.Module):
            raise NotRunnable(
                "is no model of PyTorch, and of exported files .engine, .onnx, .torchscript and "
                "_openvino_model are timed"
            )
        self.validate = cache(partial(by_image, self.net))  # once for all runtimes
        if self.artefact is None:
            images = read_images((self.pixels(imgsz),) * 2, channels=channels(self.net))
            if not responds(self.net, images):
                enliven(self.net, images)

    def prepare(self, runtime: Runtime, protocol: Protocol, folder: Path) -> Prepared:
        """Export into a folder where that is needed, open a session and verify it.

        Raises:
            NotRunnable: an exported file takes no images as the protocol has them.
        """
        options = replace(protocol.options, half=protocol.half)
        batch, size = protocol.batch or 1, (self.pixels(protocol.pixels),) * 2
        name = listed_name(self.net, self.name)
        images = images_of(protocol.int8, self.net) if protocol.int8 is not None else None
        if self.artefact is None and images is not None and len(images) < 2:
            raise NotRunnable(
                f"data={protocol.int8} has one val image, too few to measure ranges on: give some hundred"
            )
        if self.artefact is not None:
            if (own := runtime_of(self.artefact)) is not runtime:
                raise NotRunnable(f"runs on {own.name if own else 'another runtime'}, not on {runtime.name}")
            session = open_artefact(self.artefact, options)
            if not protocol.imgsz:
                size = session.size or session.exported_size or size
            batch = protocol.batch or session.batch or 1
            if (session.size or size) != size or (session.batch or batch) != batch:
                takes = f"{session.batch or 'any number of'} x {session.size or ('any', 'any')}"
                raise NotRunnable(f"takes images of {takes}, not batch={batch} of imgsz={size[0]}")
            selected = selects(session, read_images(size, channels=channels(self.net)), self.net.model[-1])
            net = exportable(self.net, size, batch, end2end=selected)
            return self.judged(prepare(net, session, size, batch, name, source=images), self.artefact, protocol, size)
        net = exportable(self.net, size, batch)
        if runtime.session is None:
            if protocol.quantised:
                raise NotRunnable("PyTorch computes no INT8 of a model: name a runtime of exported files")
            return prepare(net, Torch(deepcopy(net), options), size, batch, name)
        file = self.export(runtime, protocol, folder)
        ready = prepare(net, open_artefact(file, options), size, batch, name, source=images)
        return self.judged(ready, file, protocol, size)

    def judged(self, ready: Prepared, file: Path, protocol: Protocol, size: tuple[int, int]) -> Prepared:
        """With the verdict on what a file in INT8 loses on the protocol's dataset."""
        if protocol.int8 and ready.verification and ready.session.precision == "int8":
            where = str(ready.session.device)
            accuracy = compare_accuracy(self.net, file, protocol.int8, size, where, self.validate)
            if self.trained and accuracy.model < FOUND:
                nothing = (
                    f"finds nothing in the images of data={protocol.int8} ({accuracy.metric} {accuracy.model:.3f})"
                )
                raise NotRunnable(f"{nothing}, so what INT8 costs is not seen: give such as it was trained on")
            judge_accuracy(ready.verification, accuracy)
            ready.about["verification"] = ready.verification.record()
        return ready

    def pixels(self, imgsz: int | None) -> int:
        """Side of the image: what is asked for, or the task's own, as the next multiple of the network's stride."""
        wanted = imgsz or (224 if self.net.task == "classify" else 640)
        stride = max(int(self.net.stride.max()), 32)
        return -(-wanted // stride) * stride

    def export(self, runtime: Runtime, protocol: Protocol, folder: Path) -> Path:
        """Export as `yolo export` does, heads that need no non-maximum suppression as such."""
        runtime.require(also=needed_to_export(runtime, protocol.half, protocol.quantised))
        yolo = deepcopy(self.yolo)
        yolo.model.pt_path = str(folder / f"{self.name}.pt")  # exports go beside it
        device = (
            protocol.options.device.index or 0 if runtime.on_gpu and protocol.options.device.type == "cuda" else "cpu"
        )
        size = {"imgsz": self.pixels(protocol.pixels), "batch": protocol.batch or 1}
        precision = in_its_words({"half": protocol.half, "int8": protocol.quantised})
        if protocol.int8 and protocol.quantised:
            precision["data"] = str(find(protocol.int8) or protocol.int8)  # stock does not know the plugin's names
        inner = detailed_layers() if runtime.format == "engine" else nullcontext()
        quantiser = quantiser_as_it_was() if runtime.format == "engine" else nullcontext()
        with suspended() if self.stock else nullcontext(), quiet(), quantiser, inner:
            return Path(
                yolo.export(format=runtime.format, **size, **precision, device=device, nms=False, verbose=False)
            )


def listed_name(net: Any, otherwise: str) -> str:
    """The name by which the paper may list a network: of its YAML, if it has the classes of COCO."""
    return Path(net.yaml.get("yaml_file") or otherwise).stem if net.yaml.get("nc", 80) == 80 else ""


def checkpoint_of(artefact: Path, reference: str | None = None) -> Path:
    """The checkpoint that an exported file came from: the one named, or the .pt beside it.

    Raises:
        NotRunnable: there is none, so nothing says what the file ought to compute.
    """
    runtime = runtime_of(artefact)
    stem = artefact.name[: -len(runtime.suffix)] if runtime else artefact.stem
    file = Path(reference) if reference else artefact.with_name(f"{stem}.pt")
    if not file.exists() and not reference:
        file = artefact.with_name(f"{stem.removesuffix('_int8')}.pt")  # as Ultralytics names what it quantises
    if not file.exists() and not reference:
        raise NotRunnable(
            f"{artefact} cannot be verified without its model: put {file.name} beside it, or name it as reference=FILE"
        )
    return file


def needed_to_export(runtime: Runtime, half: bool, int8: bool = False) -> tuple[str, ...]:
    """Modules that Ultralytics needs to export for a runtime, and would install in the middle of a run."""
    if runtime.format == "openvino":
        return ("nncf",) if int8 else ()
    if runtime.format == "ncnn":
        return ("pnnx",)
    if runtime.format != "engine":
        return ()
    # Since 11 TensorRT takes FP16 from the graph alone, which Ultralytics has ModelOpt write.
    strongly_typed = (half or int8) and int(importlib.import_module("tensorrt").__version__.split(".")[0]) >= 11
    return ("onnx", "modelopt") if strongly_typed else ("onnx",)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the tracer's and the converters' notes on an export: what fails is raised all the same."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx", "onnx_ir", "nncf")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def non_maximum_suppression(head: Any) -> Callable[[list[Tensor]], object] | None:
    """Ultralytics' on a session's outputs, for heads that need it."""
    from ultralytics.utils.nms import non_max_suppression

    if not is_dense(head):
        return None
    rotated = is_rotated(head)
    keep = partial(
        non_max_suppression, conf_thres=NMS["conf"], iou_thres=NMS["iou"], max_det=int(NMS["max_det"]), rotated=rotated
    )
    return lambda outputs: keep(outputs[0].float().clone(), nc=head.nc, max_time_img=10.0)


def prepare(
    net: Any,
    session: Session,
    size: tuple[int, int],
    batch: int,
    known_as: str,
    suppression: Mapping[str, Any] = SUPPRESSION,
    source: Sequence[Path] | None = None,
) -> Prepared:
    """Verify a session against the `exportable` network, in the batches that are timed; the last stays bound."""
    session.batch = batch
    images = read_images(size, source, channels(net))
    checked = verify(net, session, images, suppression=suppression, crops=not source)
    about = {
        "device": session.device.type,
        "precision": session.precision,
        "imgsz": size[0] if size[0] == size[1] else list(size),
        "batch": batch,
        "parameters": sum(p.numel() for p in net.parameters()),
        "gflops": round(flops(net, size[0]) * size[1] / size[0], 1),
        "paper_ms": paper_latency(known_as),
        "verification": checked.record(),
    }
    if session.stored:
        about["stored"] = session.stored
    if session.int8_layers:
        about["int8_layers"] = list(session.int8_layers)
    if isinstance(session, TensorRT):
        about["layers"] = session.engine.layers()
    within = session.arguments.get("nms")
    return Prepared(session, about, checked, None if within else non_maximum_suppression(net.model[-1]))


def flops(net: Any, imgsz: int) -> float:
    """GFLOPs as the paper counts them; at full size where there are queries, which are no part of a stride."""
    whole = type(net.model[-1]).__name__ == "RTDETRDecoder"
    return gflops(net, imgsz, imgsz if whole else max(32, int(net.stride.max())))


def time_prepared(
    prepared: Mapping[K, Prepared], runs: int, warmup: int, step: Callable[[], object] = lambda: None
) -> dict[K, dict[str, Any]]:
    """Latencies, and ratios to the first, of sessions that take turns; `step` ends a round.

    Suppression has rounds of its own after the others: its threads linger, and would slow what runs next. A session
    that breaks meanwhile has the reason as `error`, and the others go on.
    """
    broken: dict[K, str] = {}

    def guarded(name: K, measure: Callable[[], float]) -> Callable[[], float]:
        def once() -> float:
            try:
                return math.nan if name in broken else or_reason(measure)
            except NotRunnable as e:
                broken[name] = str(e)
                return math.nan

        return once

    def run(calls: dict[K, Callable[[], float]]) -> dict[K, list[float]]:
        return interleave(calls, runs, warmup, measure=lambda call: call(), step=step)

    forward = run({name: guarded(name, p.session.measure()) for name, p in prepared.items()})
    suppressing = {name: p for name, p in prepared.items() if p.suppress is not None}
    with_nms = run({name: guarded(name, p.session.measure(p.suppress)) for name, p in suppressing.items()})
    times: dict[K, dict[str, Any]] = {name: {"error": reason} for name, reason in broken.items()}
    whole = [name for name in prepared if name not in broken]
    ratio = ratios({name: forward[name] for name in whole}, whole[0]) if whole else {}
    for name in whole:
        same_size = all(prepared[name].about[key] == prepared[whole[0]].about[key] for key in ("imgsz", "batch"))
        times[name] = {
            "latency": summary(forward[name]),
            "latency_nms": summary(with_nms[name]) if name in with_nms else None,
            "ratio": round(ratio[name], 4) if same_size else None,
        }
    return times


def record(
    protocol: Protocol, rows: list[dict[str, Any]], device: torch.device, before: dict[str, Any] | None, clocks: Clocks
) -> dict[str, Any]:
    """The record of schema 1 of rows measured on a device, with its state `before`, its clocks meanwhile, and now."""
    about = machine(device)
    if about["gpu"] is not None:
        about["gpu"] |= {**clocks.record(), "before": before}
    return {
        "schema": SCHEMA,
        "kind": "latency",
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "protocol": protocol.record(),
        "machine": about,
        "versions": versions(),
        "rows": rows,
    }


@undisturbed()
def bench(
    models: Sequence[str],
    runtimes: Sequence[str],
    protocol: Protocol,
    *,
    reference: str | None = None,
    report: Callable[[str], object] = lambda line: None,
    advance: Callable[[str, int], object] = lambda what, steps: None,
) -> dict[str, Any]:
    """Verify and time models on runtimes; the record of schema 1, with a row of every model and runtime.

    A model that fails has the reason as its row's `error`, one whose outputs are not the model's its `verification`
    too, and the others go on. Where it is interrupted after a runtime's turn, the record has that one's rows, and says
    so by `interrupted`.

    Args:
        models: names as yolov12n, .yaml, .pt, or exported files.
        runtimes: names of `RUNTIMES`, or of what exported files are for.
        protocol: how they are timed.
        reference: the .pt or .yaml that exported files are held against.
        report: takes each line on a failure once, and warnings.
        advance: takes what is done now, and how many of the `steps_of` the run that took.
    """
    rows: list[dict[str, Any]] = []
    say = cache(report)  # a reason that holds on several runtimes is said once
    candidate = cache(lambda given: or_reason(partial(Candidate, given, reference, protocol.pixels), about=given))
    device, before, precisions, interrupted = torch.device("cpu"), None, protocol.precisions, False
    if protocol.options.device.type == "cuda":
        torch.cuda.set_device(protocol.options.device)
    clocks = Clocks(protocol.options.device, every=max(1, (protocol.runs + protocol.warmup) // 4))
    try:
        for runtime in map(runtime_named, runtimes):
            prepared: dict[int, Prepared] = {}
            # Windows deletes no file that a session has open.
            with tempfile.TemporaryDirectory(prefix="yolov12-bench-", ignore_cleanup_errors=True) as folder:
                for given, precision in product(models, precisions):
                    own = runtime_of(Path(given))
                    if own is not None and own is not runtime and own.name in runtimes:
                        continue  # an exported file has its turn with its own runtime
                    if own is not None and precision is not precisions[-1]:
                        continue  # and is what it is
                    row: dict[str, Any] = {"model": given, "runtime": runtime.name}
                    advance(f"{runtime.name}: {given}", 0)
                    try:
                        runtime.require()
                        model = candidate(given)
                        row["model"] = model.name
                        about = f"{model.name} on {runtime.name}"
                        place = Path(folder, str(len(rows)))
                        place.mkdir()
                        ready = or_reason(partial(model.prepare, runtime, precision, place), about)
                        row.update(ready.about)
                        if not ready.verification:
                            raise NotRunnable(f"{about} {ready.verification}")
                        prepared[len(rows)] = ready
                        for line in ready.doubts(about, precision):
                            say(f"Warning: {line}")
                    except NotRunnable as e:
                        row["error"] = str(e)
                        say(f"Error: {e}")
                    rows.append(row)
                    advance(f"{runtime.name}: {given}", 2)
                if not prepared:
                    continue
                used = clocks.device = next(iter(prepared.values())).session.device
                if used.type == "cuda" and before is None:
                    device, before = used, gpu_state(used)
                step = partial(_end_round, partial(advance, runtime.name, 1), clocks)
                for i, times in time_prepared(prepared, protocol.runs, protocol.warmup, step).items():
                    rows[i].update(times)
                    if "error" in times:
                        rows[i]["error"] = f"{rows[i]['model']} on {runtime.name}: {times['error']}"
                        say(f"Error: {rows[i]['error']}")
                if protocol.int8:
                    against_fp32([rows[i] for i in prepared], say)
    except KeyboardInterrupt:
        rows = [row for row in rows if "latency" in row or "error" in row]
        if not rows:
            raise
        interrupted = True
    if before is not None and (moved := clocks.warning()) is not None:
        say(f"Warning: {moved}")
    return record(protocol, rows, device, before, clocks) | ({"interrupted": True} if interrupted else {})


def against_fp32(rows: Sequence[dict[str, Any]], say: Callable[[str], object]) -> None:
    """Note each row's time over that of the same model in FP32, and say where INT8 is the slower."""
    timed = [row for row in rows if row.get("ratio")]
    fp32 = {row["model"]: row["ratio"] for row in timed if row["precision"] == "fp32" and "stored" not in row}
    for row in timed:
        if row["model"] not in fp32:
            continue
        row["against_fp32"] = round(row["ratio"] / fp32[row["model"]], 4)
        if row["precision"] == "int8" and row["against_fp32"] > 1:
            about = f"{row['model']} on {row['runtime']}: INT8 takes {row['against_fp32']:.2f} times as long as FP32"
            about += f" on this processor ({', '.join(instructions()) or 'unknown'})"
            if layers := row.get("int8_layers"):
                about += ", which computes {} of its {} layers in INT8".format(*layers)
            say(f"Warning: {about}: deploy FP32 here")


def _end_round(advance: Callable[[], object], clocks: Clocks) -> None:
    advance()
    clocks.tick()


def pick_options(device: str | None, threads: int | None, cuda_graph: bool, compile: bool) -> Options:
    """Options of a command.

    Args:
        device: cpu, 0 or cuda:0; without one the first GPU, if there is one.
        threads: of a CPU; by default one a core.
        cuda_graph, compile: as of `Options`.

    Raises:
        NotRunnable: the device is not there, or is none.
    """
    name = device or ("0" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device("cuda", int(name)) if name.isdigit() else torch.device(name)
        where = torch.device("cuda", where.index or 0) if where.type == "cuda" else where
    except RuntimeError as e:
        raise NotRunnable(f"{name!r} is no device: cpu, 0 or cuda:0") from e
    count = torch.cuda.device_count()
    if where.type not in ("cpu", "cuda"):
        raise NotRunnable(f"{name!r} is not measured here: cpu, 0 or cuda:0")
    if where.type == "cuda" and (where.index or 0) >= count:
        raise NotRunnable(f"device {name!r} is not there, CUDA sees {count}: take device=cpu")
    return Options(where, threads=threads or cores(), cuda_graph=cuda_graph, compile=compile)


def pick_runtimes(models: Sequence[str], runtimes: Sequence[str] | None, options: Options) -> list[str]:
    """Names of runtimes, also given as "onnxruntime,openvino"; by default those of exported files, or the device's.

    Raises:
        NotRunnable: there is no such runtime.
    """
    names = [name.strip() for part in runtimes or [] for name in part.split(",") if name.strip()]
    for name in names:
        if name not in RUNTIMES:
            raise NotRunnable(f"runtime {name!r} is unknown: {', '.join(RUNTIMES)}")
    if not names:
        default = RUNTIMES["tensorrt" if options.device.type == "cuda" else "onnxruntime"]
        names = [(runtime_of(Path(model)) or default).name for model in models]
    return list(dict.fromkeys(names))


def steps_of(models: int, runtimes: int, protocol: Protocol) -> int:
    """Steps that `bench` reports in all: two for each model exported and verified, and each round of both kinds."""
    return runtimes * (2 * models * len(protocol.precisions) + 2 * (protocol.runs + protocol.warmup))


def or_reason(make: Callable[[], T], about: str = "") -> T:
    """What `make` makes; whatever Ultralytics, an exporter or a runtime raises becomes one line: the others go on.

    Raises:
        NotRunnable: it failed.
    """
    try:
        return make()
    except Exception as e:
        kind = "" if isinstance(e, (NotRunnable, OSError)) else f"{type(e).__name__}: "
        line = f"{kind}{first_line(e)}"
        named = not about or line.lstrip("'").startswith(about)
        raise NotRunnable(line if named else f"{about}: {line}") from e
