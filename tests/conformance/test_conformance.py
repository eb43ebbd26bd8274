"""Whatever works on stock's YOLO12 works with the plugin."""

import pytest

from conformance import capabilities, runner

TABLE = capabilities.load()


def of(module, *, optional):
    return [c for c in TABLE.values() if c.name.startswith(f"{module}.") and bool(c.needs) is optional]


def parts():
    """The capabilities of a module share their processes; those of an optional package are a test of their own."""
    for module, slow in capabilities.MODULES.items():
        marks = [pytest.mark.slow] if slow else []
        if own := of(module, optional=False):
            yield pytest.param(own, id=module, marks=marks)
        for c in of(module, optional=True):
            skip = pytest.mark.skipif(bool(c.missing), reason=f"not installed: {', '.join(c.missing)}")
            yield pytest.param([c], id=c.name, marks=[pytest.mark.slow, skip])


@pytest.mark.parametrize("part", parts())
def test_plugin_lacks_nothing_that_stock_has(part):
    rows = runner.run(part)
    for row in rows:
        if not row.stock["ok"]:
            print(f"{row.capability.name}: stock too fails: {row.stock['detail']}; plugin: {row.plugin}")
    lacking = [f"{row.capability.name} ({row.capability.shows}): {row.lacks}" for row in rows if row.lacks]
    assert not lacking, f"{len(lacking)} of {len(rows)}:\n" + "\n".join(lacking)
    assert any(row.stock["ok"] for row in rows)
