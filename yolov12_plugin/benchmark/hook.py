"""An Ultralytics callback that verifies and times what has just been exported."""

import json
import sys
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from yolov12_plugin.benchmark.bench import Protocol, listed_name, or_reason, prepare, record, time_prepared
from yolov12_plugin.benchmark.machine import Clocks, gpu_state
from yolov12_plugin.benchmark.results import device_name
from yolov12_plugin.deploy.runtimes import RUNTIMES, open_artefact
from yolov12_plugin.deploy.runtimes.session import Options, asked_for_half, asked_for_int8, export_format
from yolov12_plugin.deploy.tensorrt import detailed_layers
from yolov12_plugin.deploy.verify import SUPPRESSION
from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.files import write_text
from yolov12_plugin.process import undisturbed


class ExportDiffers(RuntimeError):
    """An exported file does not compute the model; the message names the first output that shows it."""


class TensorRTBenchmark:
    """Verify and time an engine as soon as it is built, and write `yolov12n.engine.json` beside `yolov12n.engine`.

    It is a callback for `on_export_end`: `model.add_callback("on_export_end", TensorRTBenchmark())`, or better
    `TensorRTBenchmark().attach(model)`, which also has the engine keep what each layer runs in, so that its precision
    can be read back. YOLO12_BENCH=1 attaches it to every export of a process, as in `YOLO12_BENCH=1 yolo export
    model=yolov12n.pt format=engine quantize=16`. ONNX, OpenVINO and TorchScript exports are verified and timed likewise
    on their own runtimes. The protocol is that of `yolov12_plugin.benchmark.bench`; the last record is `result`.

    Args:
        runs, warmup: executions timed, and before them.
        cuda_graph: replay the engine as a CUDA graph.
        exits: instead of raising, end the process with 1 if the export differs and with 2 if it does not run.

    Raises:
        ExportDiffers: the file does not compute the model; its record has no latency.
        NotRunnable: the file does not run here.

    Examples:
        >>> from ultralytics import YOLO
        >>> import yolov12_plugin as y12
        >>> model = YOLO("yolov12n.yaml", verbose=False)
        >>> y12.TensorRTBenchmark(runs=50).attach(model)
        >>> model.export(format="engine", quantize=16)  # doctest: +SKIP
    """

    def __init__(self, *, runs: int = 100, warmup: int = 10, cuda_graph: bool = False, exits: bool = False) -> None:
        self.protocol = Protocol(runs=runs, warmup=warmup, options=Options(cuda_graph=cuda_graph))
        self.exits = exits
        self.result: dict[str, Any] | None = None
        self._building = ExitStack()

    def attach(self, model: Any) -> None:
        """Measure the files that a model's exports write.

        Args:
            model: a `YOLO`, or an exporter of Ultralytics.
        """
        for event, callback in (("on_export_start", self.on_export_start), ("on_export_end", self)):
            model.callbacks[event].append(callback)

    def on_export_start(self, exporter: Any) -> None:
        self._building.close()  # of an export that failed
        if export_format(exporter) == "engine":
            self._building.enter_context(detailed_layers())

    def __call__(self, exporter: Any) -> None:
        from ultralytics.utils import LOGGER

        self._building.close()
        runtime = next((r for r in RUNTIMES.values() if r.format == export_format(exporter)), None)
        if runtime is None:
            LOGGER.warning(f"yolov12-plugin: format={exporter.args.format} is not timed; verify_export() compares it")
            return
        stem = exporter.file.stem
        file = exporter.file.with_name(f"{stem}{runtime.suffix}")
        if asked_for_int8(vars(exporter.args)):  # which some releases name so
            quantised = exporter.file.with_name(f"{stem}_int8{runtime.suffix}")
            file = quantised if quantised.exists() else file
        if not file.exists():
            return  # the export failed, and said so
        try:
            self._measure(exporter, file, runtime.name)
        except (ExportDiffers, NotRunnable, OSError) as e:
            if not self.exits:
                raise
            print(f"Error: {e}", file=sys.stderr)
            sys.exit(1 if isinstance(e, ExportDiffers) else 2)

    @undisturbed()
    def _measure(self, exporter: Any, file: Path, runtime: str) -> None:
        from ultralytics.utils import LOGGER

        arguments = vars(exporter.args)
        protocol = replace(self.protocol, half=asked_for_half(arguments))
        session = open_artefact(file, replace(protocol.options, device=exporter.device))
        # With nms=True an exporter leaves the network training, and its boxes as corners.
        net = deepcopy(exporter.model).float().eval()
        if hasattr(net.model[-1], "xyxy"):
            net.model[-1].xyxy = False
        size, batch = session.size or tuple(exporter.imgsz), session.batch or exporter.args.batch
        name = listed_name(net, file.name)
        before = gpu_state(session.device) if session.device.type == "cuda" else None
        names = {"conf_thres": "conf", "iou_thres": "iou", "agnostic": "agnostic_nms", "max_det": "max_det"}
        suppression = {key: arguments.get(names[key]) or default for key, default in SUPPRESSION.items()}
        ready = or_reason(lambda: prepare(net, session, size, batch, name, suppression), about=file.name)
        row = {"model": file.stem.removesuffix("_openvino_model"), "runtime": runtime, **ready.about}
        clocks = Clocks(session.device, every=max(1, protocol.runs // 8))
        if ready.verification:
            row |= time_prepared({0: ready}, protocol.runs, protocol.warmup, clocks.tick)[0]
        else:
            row["error"] = str(ready.verification)
        self.result = record(protocol, [row], session.device, before, clocks)
        beside = file.with_name(f"{file.name}.json")
        write_text(beside, json.dumps(self.result, indent=2, allow_nan=False) + "\n")
        if "error" in row:
            raise (NotRunnable if ready.verification else ExportDiffers)(f"{file.name} {row['error']}")
        for doubt in (*ready.doubts(file.name, protocol), clocks.warning() if before is not None else None):
            if doubt is not None:
                LOGGER.warning(doubt)
        median, low, high = (row["latency"][key] for key in ("median_ms", "p10_ms", "p90_ms"))
        LOGGER.info(
            f"{file.name} {ready.verification}\n{row['precision']} on {device_name(self.result, row['device'])}: "
            f"{median:.2f} ms ({low:.2f} to {high:.2f}), forward only; {beside}"
        )
