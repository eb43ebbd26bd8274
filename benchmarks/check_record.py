"""Whether a record of latencies can be kept in `results/`: of schema 1, whole, verified, and of what it says."""

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from yolov12_plugin.benchmark.results import Latency, Results, read_results
from yolov12_plugin.errors import ResultsError

ROUNDS = 30


def problems(record: dict[str, Any], results: Results) -> Iterator[str]:
    """What is in the way of keeping a record, a line each."""
    if not re.fullmatch(r".+([+-]\d\d:\d\d|Z)", results.created) or not is_date(results.created):
        yield f"created is {results.created!r}, no date of ISO 8601 with its zone"
    for package in ("yolov12-plugin", "ultralytics", "torch"):
        if package not in results.versions:
            yield f"versions has no {package}"
    if not results.rows:
        yield "no model was timed"
    if (runs := results.protocol.get("runs", 0)) < ROUNDS:
        yield f"{runs} rounds were timed, and what is kept has {ROUNDS} or more"
    for name, count in Counter((row.model, row.runtime, row.precision) for row in results.rows).items():
        if count > 1:
            yield f"{' '.join(name)} is there {count} times"
    for row, told in zip(results.rows, (row for row in record["rows"] if "error" not in row)):
        about = f"{row.model} on {row.runtime}"
        if not (told.get("verification") or {}).get("passed"):
            yield f"{about} was not verified"
        if row.device == "cuda" and not results.machine["gpu"]:
            yield f"{about} ran on a GPU, and machine.gpu is null"
        for key, latency in (("latency", row.latency), ("latency_nms", row.latency_nms)):
            if latency and not is_sound(latency):
                yield f"{about} has a {key} that no clock gives: {latency}"
        if not (row.ratio is None or (math.isfinite(row.ratio) and row.ratio > 0)):
            yield f"{about} has the ratio {row.ratio}"
    if found := re.search(r"/home/\w+|/Users/\w+|[A-Z]:\\\\\w+|hf_\w{8,}", json.dumps(record)):
        yield f"it names a private place, {found[0]}"


def is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return False
    return True


def is_sound(latency: Latency) -> bool:
    values = (latency.p10_ms, latency.median_ms, latency.p90_ms, latency.mean_ms)
    in_order = 0 < latency.p10_ms <= latency.median_ms <= latency.p90_ms
    return in_order and all(map(math.isfinite, values)) and latency.samples > 0


def doubts(record: dict[str, Any], results: Results) -> Iterator[str]:
    """What a reader of the record should be told, a line each."""
    if gpu := results.machine["gpu"]:
        if "T4" not in gpu["name"].split():
            yield f"it is of a {gpu['name']}, no T4"
        if not gpu.get("clocks_steady"):
            yield "the GPU's clock moved, or was not read"
    for row in results.rows:
        if not row.like_the_paper:
            yield f"{row.model} is of {row.batch} x {row.imgsz}, no row of Table 1"
        elif row.runtime == "tensorrt" and row.precision != "fp16":
            yield f"{row.model} runs in {row.precision}, not in half precision"
    for failure in results.failures:
        yield f"{failure.model} on {failure.runtime} was not timed: {failure.error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path, nargs="+", metavar="FILE")
    failed = False
    for file in parser.parse_args().records:
        try:
            results = read_results(file)
            record = json.loads(file.read_text(encoding="utf-8"))
            found = list(problems(record, results))
        except (ResultsError, OSError) as e:
            found, results = [str(e)], None
        for line in found:
            print(f"{file}: {line}")
        for line in doubts(record, results) if results else ():
            print(f"{file}: to be told: {line}")
        if not found:
            print(f"{file} can be kept: {len(results.rows)} models timed")
        failed |= bool(found)
    sys.exit(failed)


if __name__ == "__main__":
    main()
