"""Runs capabilities on both sides, in processes that may die, and says what the plugin lacks."""

import json
import os
import sys
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked

from conformance.capabilities import Capability

TESTS = Path(__file__).resolve().parent.parent
WORKER: list[str] = ["-m", "conformance.worker"]


@dataclass(frozen=True)
class Row:
    """What came of one capability; a side that could not be tried has no outcome."""

    capability: Capability
    stock: dict[str, Any] | None
    plugin: dict[str, Any] | None

    @property
    def differs(self) -> str:
        """How the plugin's values are not stock's, where both sides work."""
        if not (self.stock and self.plugin and self.stock["ok"] and self.plugin["ok"]):
            return ""
        return difference(self.stock["value"], self.plugin["value"], self.capability.tolerance)

    @property
    def lacks(self) -> str:
        """Why stock has this and the plugin does not."""
        if self.stock is None or self.plugin is None or not self.stock["ok"]:
            return ""
        return self.differs if self.plugin["ok"] else self.plugin["detail"]


def run(capabilities: Iterable[Capability], on_record: Collection[str] = ()) -> list[Row]:
    """Every capability whose packages are installed, on stock and with the plugin.

    Of what stock is known to have, and compares nothing, stock is tried only where the plugin fails.
    """
    chosen = list(capabilities)
    tried = [c for c in chosen if not c.missing]
    plugin = run_side("plugin", tried)
    known = {c.name for c in tried if c.name in on_record and not c.compares and plugin[c.name]["ok"]}
    stock = run_side("stock", [c for c in tried if c.name not in known])
    return [Row(c, stock.get(c.name), plugin.get(c.name)) for c in chosen]


def run_side(side: str, capabilities: list[Capability]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    together = [c.name for c in capabilities if not c.alone]
    # The folder is resolved: data YAMLs and checkpoints name files in it.
    with tempfile.TemporaryDirectory(prefix="conformance-", ignore_cleanup_errors=True) as folder:
        home = Path(folder).resolve()
        while together:
            found |= process(side, together, home)
            together = [name for name in together if name not in found]
        for c in capabilities:
            if c.alone:
                found |= process(side, [c.name], home)
    return found


def process(side: str, names: list[str], home: Path) -> dict[str, dict[str, Any]]:
    """One process; where it dies, the capability that it died of is charged, and those after it have no outcome."""
    results = home / "results.jsonl"
    results.unlink(missing_ok=True)
    command = [sys.executable, *WORKER, side, str(results), *names]
    done = forked.run(command, home, environment(side, home))
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    found = {line.pop("name"): line for line in lines if "ok" in line}
    died = [line["name"] for line in lines if line.get("started") and line["name"] not in found]
    if not lines:  # before the first capability
        raise RuntimeError(f"no process of {side}: {done.stderr[-3000:]}")
    for name in died:
        last = " ".join(done.stderr.split())[-300:]
        found[name] = {
            "ok": False,
            "detail": f"the process ended ({done.returncode}): {last}",
            "value": None,
            "seconds": 0,
        }
    return found


def environment(side: str, home: Path) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    env = {k: v for k, v in os.environ.items() if not k.startswith("YOLO12_")}
    env |= {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "YOLO_VERBOSE": "false",
        "YOLO_CONFIG_DIR": str(home / "config"),
    }
    env |= {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled"}
    (home / "config").mkdir(exist_ok=True)
    return env | ({"YOLO12_PLUGIN": "off"} if side == "stock" else {})


def difference(stock: Any, plugin: Any, tolerance: float, where: str = "") -> str:
    """The first place where two digests are not the same, or nothing."""
    numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in (stock, plugin)]
    if all(numbers):
        stock, plugin = [stock], [plugin]
    if isinstance(stock, dict) and isinstance(plugin, dict) and stock.keys() == plugin.keys():
        return next(filter(None, (difference(stock[k], plugin[k], tolerance, f"{where}.{k}") for k in stock)), "")
    if isinstance(stock, list) and isinstance(plugin, list) and len(stock) == len(plugin):
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in [*stock, *plugin]):
            pairs = enumerate(zip(stock, plugin))
            return next(filter(None, (difference(a, b, tolerance, f"{where}[{i}]") for i, (a, b) in pairs)), "")
        limit = tolerance * max([1e-9, *map(abs, stock)])
        off = [abs(a - b) for a, b in zip(stock, plugin) if not abs(a - b) <= limit]  # NaN is off too
        return f"value{where} differs from stock's by {max(off):.3g}, more than {limit:.3g}" if off else ""
    return "" if stock == plugin else f"value{where} is {str(plugin)[:120]}, stock's {str(stock)[:120]}"
