"""Whatever works on stock's YOLO12 works with the plugin."""

import json

import pytest
import torch
import ultralytics

from conformance import capabilities, runner, table

TABLE = capabilities.load()
RECORD = json.loads(table.RECORD.read_text(encoding="utf-8")) if table.RECORD.exists() else None


def of(module, *, optional):
    return [c for c in TABLE.values() if c.name.startswith(f"{module}.") and bool(c.needs) is optional]


def parts():
    """The capabilities of a module share their processes; those of an optional package are a test of their own."""
    for module, does in capabilities.MODULES.items():
        marks = [getattr(pytest.mark, name) for name in ("process", *does)]
        if own := of(module, optional=False):
            yield pytest.param(own, id=module, marks=marks)
        for c in of(module, optional=True):
            skip = pytest.mark.skipif(bool(c.missing), reason=f"not installed: {', '.join(c.missing)}")
            yield pytest.param([c], id=c.name, marks=[*marks, skip])


def on_stock():
    """What stock had when the record was made, where it was made with the versions that are here."""
    here = {"ultralytics": ultralytics.__version__, "torch": torch.__version__.partition("+")[0]}
    if RECORD is None or any(RECORD["versions"][name].partition("+")[0] != number for name, number in here.items()):
        return set()
    return {row["name"] for row in RECORD["rows"] if row["stock"]}


@pytest.mark.parametrize("part", list(parts()))
def test_plugin_lacks_nothing_that_stock_has(part):
    rows = runner.run(part, on_stock())
    for row in rows:
        if row.stock and not row.stock["ok"]:
            print(f"stock too fails {row.capability.name}: {row.stock['detail']}; plugin: {row.plugin}")
    lacking = [f"{row.capability.name} ({row.capability.shows}): {row.lacks}" for row in rows if row.lacks]
    assert not lacking, f"{len(lacking)} of {len(rows)}:\n" + "\n".join(lacking)
    lost = [f"{row.capability.name}: {row.stock['detail']}" for row in rows if row.stock and not row.stock["ok"]]
    lost = [text for text in lost if text.partition(":")[0] in on_stock()]
    assert not lost, "stock had it on record, so it is the trial that fails:\n" + "\n".join(lost)
    assert any(row.stock is None or row.stock["ok"] for row in rows)


@pytest.mark.skipif(RECORD is None, reason="no record: python tests/conformance/table.py")
def test_the_record_is_of_the_capabilities():
    assert {row["name"] for row in RECORD["rows"]} == TABLE.keys()
    assert not [row["name"] for row in RECORD["rows"] if row["stock"] and not row["plugin"]]


def test_some_modules_anew():
    """Beside the rows of the others, in the order of the table, and of the same versions alone."""
    names = list(TABLE)[:3]
    before = {"versions": {"torch": "1", "lap": "1"}, "rows": [{"name": name, "stock": False} for name in names[1:]]}
    data = {"versions": {"torch": "1"}, "rows": [{"name": name, "stock": True} for name in names[:2]]}
    found = table.with_others(data, before)
    assert [row["name"] for row in found["rows"]] == names and found["versions"] == before["versions"]
    assert [row["stock"] for row in found["rows"]] == [True, True, False]
    with pytest.raises(SystemExit, match="torch"):
        table.with_others(data | {"versions": {"torch": "2"}}, before)


def test_stock_is_tried_where_the_record_does_not_tell(monkeypatch):
    """What compares values, what the plugin fails, and what is not on record."""
    plain = [name for name, c in TABLE.items() if not c.compares and not c.missing]
    compares = next(name for name, c in TABLE.items() if c.compares and not c.missing)
    good, fails, new = plain[:3]
    tried = {}

    def run_side(side, capabilities):
        tried[side] = {c.name for c in capabilities}
        ok = {name: (side, name) != ("plugin", fails) for name in tried[side]}
        return {name: {"ok": ok[name], "detail": "no", "value": None} for name in tried[side]}

    monkeypatch.setattr(runner, "run_side", run_side)
    rows = runner.run([TABLE[name] for name in (good, fails, new, compares)], {good, fails, compares})
    assert tried == {"plugin": {good, fails, new, compares}, "stock": {fails, new, compares}}
    assert [row.lacks for row in rows] == ["", "no", "", ""]


@pytest.mark.process
def test_a_process_that_dies_is_charged_to_its_capability(tmp_path, monkeypatch):
    """The one that it died of fails, with the last words; those after it are tried in a process of their own."""
    worker = tmp_path / "dies.py"
    worker.write_text(DIES)
    monkeypatch.setattr(runner, "WORKER", [str(worker)])
    names = ["layout.empty_batch", "layout.precisions", "layout.attributes"]
    found = runner.run_side("stock", [TABLE[name] for name in names])
    assert [found[name]["ok"] for name in names] == [True, False, True]
    assert "(3): last words" in found["layout.precisions"]["detail"]


DIES = """
import json, sys
side, results, *names = sys.argv[1:]
with open(results, "w", buffering=1) as file:
    for name in names:
        file.write(json.dumps({"name": name, "started": True}) + "\\n")
        if name == "layout.precisions":
            print("last words", file=sys.stderr)
            sys.exit(3)
        file.write(json.dumps({"name": name, "ok": True, "detail": "", "value": None, "seconds": 0}) + "\\n")
"""


@pytest.mark.parametrize(
    "plugin, differs",
    [
        ({"a": [1.00001, 2], "b": "x"}, False),
        ({"a": [1.001, 2], "b": "x"}, True),
        ({"a": [1, 2], "b": "y"}, True),
        ({"a": [1, 2, 3], "b": "x"}, True),
        ({"a": [float("nan"), 2], "b": "x"}, True),
        ({"a": [1, 2]}, True),
    ],
)
def test_difference(plugin, differs):
    assert bool(runner.difference({"a": [1, 2], "b": "x"}, plugin, 1e-4)) is differs
