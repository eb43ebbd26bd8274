"""The record of what works as on stock, in benchmarks/results; benchmarks/pages.py writes it into docs/what-works.md.

python tests/conformance/table.py                 runs everything on stock and with the plugin, some minutes
python tests/conformance/table.py MODULE...       runs some modules of this folder, and keeps the record's rows of the others
python tests/conformance/table.py --before FILE   prints the record beside an older one instead, where they are not the same
"""

import argparse
import json
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conformance import capabilities, runner  # noqa: E402

RECORD = ROOT / "benchmarks/results/conformance.json"
PACKAGES = {"pytorch_grad_cam": "grad-cam"}  # modules whose distribution has another name


def record(chosen: list[capabilities.Capability]) -> dict[str, Any]:
    rows = []
    for module in capabilities.MODULES:
        part = [c for c in chosen if c.name.startswith(f"{module}.")]
        rows += [row(r) for r in runner.run(part)] if part else []
        print(f"{module}: {len(part)}", file=sys.stderr)
    return {
        "schema": 1,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions(chosen),
        "rows": rows,
    }


def with_others(data: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Rows beside those of an earlier record, in the order of the table."""
    if other := {name for name, number in data["versions"].items() if before["versions"].get(name, number) != number}:
        sys.exit(f"the record is of other versions of {', '.join(sorted(other))}: run all modules")
    rows = {r["name"]: r for r in (*before["rows"], *data["rows"])}
    return before | {"rows": [rows[name] for name in capabilities.load() if name in rows]}


def row(r: runner.Row) -> dict[str, Any]:
    """One capability: whether each side has it, and why not; null where a package is missing."""
    c, outcomes = r.capability, {"stock": r.stock, "plugin": r.plugin}
    found: dict[str, Any] = {"name": c.name, "group": c.group, "shows": c.shows, "needs": c.needs, "missing": c.missing}
    found |= {side: outcome and outcome["ok"] for side, outcome in outcomes.items()}
    found["why"] = {side: outcome["detail"] for side, outcome in outcomes.items() if outcome and not outcome["ok"]}
    if r.differs:
        found["plugin"], found["why"]["plugin"] = False, r.differs
    return found


def versions(chosen: list[capabilities.Capability]) -> dict[str, str]:
    names = ["yolov12-plugin", "ultralytics", "torch", "torchvision", "onnxruntime", "openvino"]
    names += sorted({PACKAGES.get(package, package) for c in chosen for package in c.needs})
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


SIGNS = {True: "yes", False: "no", None: "not tried"}


def markdown(data: dict[str, Any]) -> str:
    """The table, a heading a group."""
    versions = ", ".join(f"{name} {number}" for name, number in data["versions"].items() if name != "yolov12-plugin")
    parts = [f"\n{summary(data)} Python {data['python']}, {data['platform']}, {versions}.\n"]
    for title in dict.fromkeys(r["group"] for r in data["rows"]):
        parts.append(f"\n## {title}\n\n| capability | stock | plugin |\n|---|---|---|\n")
        parts += [line(r, r["stock"], r["plugin"]) for r in data["rows"] if r["group"] == title]
    return "".join([*parts, "\n"])


def line(r: dict[str, Any], *outcomes: bool | None) -> str:
    return f"| {' | '.join([r['shows'].replace('|', chr(92) + '|'), *(SIGNS[outcome] for outcome in outcomes)])} |\n"


def beside(data: dict[str, Any], before: dict[str, Any]) -> str:
    """What changed since another record."""
    old = {r["name"]: r["plugin"] for r in before["rows"]}
    changed = [r for r in data["rows"] if r["plugin"] != old.get(r["name"])]
    head = "| capability | stock | plugin before | plugin |\n|---|---|---|---|\n"
    return head + "".join(line(r, r["stock"], old.get(r["name"]), r["plugin"]) for r in changed)


def summary(data: dict[str, Any]) -> str:
    tried = [r for r in data["rows"] if r["stock"] is not None]
    stock = [r for r in tried if r["stock"]]
    both = sum(bool(r["plugin"]) for r in stock)
    only = sum(bool(r["plugin"]) for r in tried if not r["stock"])
    return f"Of {len(tried)} capabilities stock has {len(stock)}; the plugin has {both} of those, and {only} that stock lacks."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", choices=[*capabilities.MODULES, []], metavar="MODULE")
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--before", type=Path)
    args = parser.parse_args()
    if args.before:
        print(beside(*(json.loads(file.read_text(encoding="utf-8")) for file in (args.out, args.before))))
        return
    chosen = [
        c for c in capabilities.load().values() if c.name.partition(".")[0] in (args.modules or capabilities.MODULES)
    ]
    data = record(chosen)
    if args.modules:
        data = with_others(data, json.loads(args.out.read_text(encoding="utf-8")))
    args.out.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    lacking = [r for r in data["rows"] if r["stock"] and not r["plugin"]]
    for r in lacking:
        print(f"{r['name']}: {r['why']['plugin']}")
    print(summary(data))
    sys.exit(bool(lacking))


if __name__ == "__main__":
    main()
