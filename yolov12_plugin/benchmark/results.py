"""Results of `yolov12 bench`: one JSON file a run, documented in benchmarks/README.md."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from yolov12_plugin.errors import ResultsError

SCHEMA = 1
T = TypeVar("T")


@dataclass(frozen=True)
class Latency:
    """Milliseconds for a whole batch."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    mean_ms: float
    std_ms: float
    samples: int
    clipped: int


@dataclass(frozen=True)
class Row:
    """A model as one runtime ran it; `latency` is the forward pass, `latency_nms` that and NMS where it needs one.

    `ratio` is the median, over the rounds, of its time over that of the first model, None between sizes.
    """

    model: str
    runtime: str
    device: str
    precision: str
    imgsz: int
    batch: int
    parameters: int
    gflops: float
    latency: Latency
    latency_nms: Latency | None
    ratio: float | None = None

    @property
    def like_the_paper(self) -> bool:
        """One image of 640 pixels, as in all of the paper's tables."""
        return self.imgsz == 640 and self.batch == 1


@dataclass(frozen=True)
class Failure:
    model: str
    runtime: str
    error: str


@dataclass(frozen=True)
class Results:
    created: str
    protocol: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    rows: list[Row]
    failures: list[Failure]

    def setup(self, row: Row) -> str:
        """Runtime and hardware by its own name, with what else makes two runs differ: threads, graphs, compilation."""
        if row.device == "cpu":
            where = f"{self.machine['processor']} ({self.protocol['threads']} threads)"
        else:
            where = self.machine["gpu"]["name"]
        apply = {"cuda_graph": row.device != "cpu", "compile": row.runtime == "torch"}
        switches = [f", {name.replace('_', ' ')}" for name, does in apply.items() if does and self.protocol.get(name)]
        return f"{row.runtime}, {where}{''.join(switches)}"


def device_name(record: dict[str, Any], device: str) -> str:
    """The processor or the GPU of a record by its own name."""
    machine = record["machine"]
    return machine["processor"] if device == "cpu" else machine["gpu"]["name"]


def read_results(path: Path) -> Results:
    """Read one file.

    Raises:
        ResultsError: It holds no results of this schema.
        OSError: It cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ResultsError(f"{path} is no JSON: {e}") from e
    schema, kind = (data.get(key) if isinstance(data, dict) else None for key in ("schema", "kind"))
    if schema != SCHEMA:
        raise ResultsError(f"{path} has schema {schema}, not {SCHEMA}: write it anew with `yolov12 bench --out`")
    if kind != "latency":
        raise ResultsError(f"{path} is of kind {kind}, not latency: name one of latencies")
    try:
        rows = [_row(row) for row in data["rows"] if "error" not in row]
        failures = [_pick(Failure, row) for row in data["rows"] if "error" in row]
        results = _pick(Results, data | {"rows": rows, "failures": failures})
        for row in rows:
            results.setup(row)
    except (KeyError, TypeError) as e:
        raise ResultsError(f"{path} lacks a part of schema {SCHEMA}: {e}") from e
    return results


def results_in(folder: Path) -> list[Results]:
    """The latencies in a folder; its other JSON files are other things."""

    def is_latency(text: str) -> bool:
        if '"kind": "latency"' not in text:
            return False
        try:  # it may be within another record
            return json.loads(text).get("kind") == "latency"
        except ValueError:
            return True  # a torn one: it is said

    return [read_results(path) for path in sorted(folder.glob("*.json")) if is_latency(path.read_text("utf-8"))]


def by_setup(results: Iterable[Results]) -> dict[tuple[str, str], dict[str, Row]]:
    """Rows of one image of 640 pixels by (setup, precision) and model; of two runs of the same, the later."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for run in sorted(results, key=lambda run: run.created):
        for row in run.rows:
            if row.like_the_paper:
                found.setdefault((run.setup(row), row.precision), {})[row.model] = row
    return found


def _row(data: dict[str, Any]) -> Row:
    nms = data["latency_nms"]
    times = {"latency": _pick(Latency, data["latency"]), "latency_nms": nms and _pick(Latency, nms)}
    return _pick(Row, {"ratio": None} | data | times)


def _pick(kind: type[T], data: dict[str, Any]) -> T:
    return kind(**{field.name: data[field.name] for field in fields(kind)})  # type: ignore[arg-type]
