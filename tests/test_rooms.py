"""Imports point one way: from the rooms that CONTRIBUTING.md lists, upwards in its table and never in a circle."""

import ast
import re
from graphlib import CycleError, TopologicalSorter

import pytest
from conftest import ROOT

PACKAGE = ROOT / "yolov12_plugin"
ROOMS = [
    re.findall(r"`([\w./]+)`", row.split("|")[1])
    for row in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| `[\w./]+`.*\|", row)
]


def module_of(file):
    return ".".join(("yolov12_plugin", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports(source):
    """The package's modules that a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for name in node.names:
                full = f"{node.module}.{name.name}"
                if full in MODULES or node.module in MODULES:
                    yield full if full in MODULES else node.module


def floor(module):
    path = MODULES[module].relative_to(PACKAGE).as_posix()
    return next(i for i, room in enumerate(ROOMS) if path in room or f"{path.split('/')[0]}/" in room)


def test_each_module_has_one_room():
    for file in MODULES.values():
        path = file.relative_to(PACKAGE).as_posix()
        assert sum(path in room or f"{path.split('/')[0]}/" in room for room in ROOMS) == 1, path
    assert all((PACKAGE / name).exists() for room in ROOMS for name in room)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    for other in imports(MODULES[module].read_text(encoding="utf-8")):
        assert floor(other) <= floor(module), f"{module} imports {other}"


def test_no_circle():
    graph = {module: set(imports(file.read_text(encoding="utf-8"))) for module, file in MODULES.items()}
    for module, others in graph.items():
        if (room := module.rpartition(".")[0]) in graph and room != "yolov12_plugin":
            others.discard(room)  # a module's own package is loaded anyhow; that one may import it
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        pytest.fail(" -> ".join(e.args[1]))


def test_an_arrow_up_would_be_seen():
    assert list(imports("def f():\n    from yolov12_plugin.cli import bench, common")) == [
        "yolov12_plugin.cli.bench",
        "yolov12_plugin.cli.common",
    ]
    assert floor("yolov12_plugin.nn.modules") < floor("yolov12_plugin.cli.bench")


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("yolov12_plugin.cli")])
def test_errors_below_the_commands_know_no_flags(module):
    """They name arguments, as imgsz=33; a whole command may be named."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        for text in ast.walk(node) if isinstance(node, ast.Raise) else ():
            if isinstance(text, ast.Constant) and isinstance(text.value, str) and "`yolov12 " not in text.value:
                assert not re.search(r"(?<![\w-])--[a-z]", text.value), text.value
