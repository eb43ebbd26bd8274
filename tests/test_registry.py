import importlib
import os
import pkgutil
import re

import pytest
import ultralytics
from conftest import yolov12

import yolov12_plugin as y12
from yolov12_plugin import registry


def symbols():
    return {(p.owner, p.attribute): getattr(pkgutil.resolve_name(p.owner), p.attribute) for p in registry.PATCHES}


def test_registered_by_the_import_alone(run):
    out = run(
        "import sys; from ultralytics import YOLO; YOLO('yolov12n.yaml')\n"
        "from ultralytics.nn.modules import block\n"
        "assert block.AAttn.forward.__module__ == 'yolov12_plugin.nn.modules'\n"
        "assert not [f for f in sys.meta_path if 'yolov12' in getattr(f, '__module__', '')], 'finder is still there'\n"
        "import yolov12_plugin; print(yolov12_plugin.is_registered())"
    )
    assert out.stdout.splitlines()[-1] == "True"
    assert "yolov12-plugin" not in out.stderr


def test_unregister_restores_the_very_objects():
    ours = symbols()
    assert y12.is_registered()
    y12.unregister()
    try:
        assert not y12.is_registered()
        stock = symbols()
        assert all(stock[key] is not ours[key] for key in ours)
        for patch in registry.PATCHES:
            for module in patch.reexports:
                original = stock[patch.owner, patch.attribute]
                assert getattr(importlib.import_module(module), patch.attribute, original) is original
        for (_, name), obj in stock.items():
            assert obj.__name__ == name and "yolov12" not in obj.__code__.co_filename if hasattr(obj, "__code__") else 1
        y12.unregister()  # twice is once
        assert symbols() == stock
    finally:
        assert y12.register()
    assert y12.is_registered()
    y12.unregister()
    assert symbols() == stock
    assert y12.register()


def test_register_is_idempotent():
    before = symbols()
    assert y12.register() and y12.register()
    after = symbols()
    assert all(after[key] is before[key] for key in before)


@pytest.mark.parametrize("patch", [p for p in registry.PATCHES if p.reexports], ids=lambda p: p.attribute)
def test_reexports_follow(patch):
    for module in patch.reexports:
        ours = symbols()[patch.owner, patch.attribute]
        assert getattr(importlib.import_module(module), patch.attribute, ours) is ours  # older ones import less


def test_register_where_ultralytics_is_loaded_already(fork):
    fork(
        "import os; os.environ['YOLO12_PLUGIN'] = 'off'\n"
        "from ultralytics import YOLO\n"
        "import yolov12_plugin as y12\n"
        "assert not y12.register() and not y12.is_registered()\n"
        "del os.environ['YOLO12_PLUGIN']\n"
        "assert y12.register() and y12.is_registered(); YOLO('yolov12n.yaml')"
    )


@pytest.mark.parametrize(
    "first", ["yolov12_plugin.nn.modules", "yolov12_plugin.nn.attention", "ultralytics.nn.modules"]
)
def test_any_import_order(fork, first):
    fork(
        f"import {first}, ultralytics.nn.tasks as t, yolov12_plugin as y; assert y.is_registered() and t.A2C2f is y.A2C2f"
    )


def test_unregister_before_ultralytics_is_imported(fork):
    fork(
        "import yolov12_plugin as y12; y12.unregister()\nimport ultralytics.nn.tasks\nassert not y12.is_registered()\n"
    )


@pytest.mark.parametrize("value", ["off", "OFF", "0", "false"])
def test_switched_off(fork, value):
    out = fork(
        "from ultralytics import YOLO\n"
        "import yolov12_plugin as y12\n"
        "from ultralytics.nn.modules.block import AAttn\n"
        "assert not y12.is_registered() and AAttn.forward.__module__ == 'ultralytics.nn.modules.block'\n"
        "YOLO('yolov12n.yaml')",
        YOLO12_PLUGIN=value,
        check=False,
    )
    assert out.returncode and "FileNotFoundError" in out.stderr


MOVED = {
    "ultralytics.nn.tasks.parse_model": ("nn/tasks.py", "parse_model(", "parse_yaml_model("),
    "ultralytics.utils.checks.check_yolov5u_filename": ("utils/checks.py", "check_yolov5u_filename", "check_filename"),
    "ultralytics.nn.modules.block.ABlock": ("nn/modules/block.py", "ABlock", "AreaBlock"),
}


@pytest.mark.parametrize("symbol", MOVED)
def test_a_moved_symbol_leaves_stock_untouched_and_warns_once(run, overlay, symbol):
    file, old, new = MOVED[symbol]
    path = overlay / "ultralytics" / file
    path.write_text(path.read_text().replace(old, new))
    for other in "utils/downloads.py", "nn/__init__.py":  # the future release is consistent with itself
        path = overlay / "ultralytics" / other
        path.write_text(path.read_text().replace("check_yolov5u_filename", "check_filename") if "checks" in symbol
                        else path.read_text().replace("    parse_model,\n", "").replace('    "parse_model",\n', ""))  # fmt: skip
    out = run(
        "from ultralytics import YOLO\n"
        "import ultralytics.nn.tasks as tasks, yolov12_plugin as y12\n"
        "from ultralytics.nn.modules import block\n"
        "assert not y12.is_registered() and not y12.register()\n"
        "assert tasks.A2C2f.forward.__module__ == block.A2C2f.__module__ == 'ultralytics.nn.modules.block'\n"
        "YOLO('yolo11n.yaml', verbose=False); YOLO('yolo12n.yaml', verbose=False)",
        PYTHONPATH=str(overlay),
    )
    warnings = [line for line in (out.stdout + out.stderr).splitlines() if "yolov12-plugin" in line]
    assert len(warnings) == 1, warnings
    assert symbol in warnings[0] and ultralytics.__version__ in warnings[0]


def of_release(overlay, version):
    init = overlay / "ultralytics/__init__.py"
    init.write_text(re.sub(r"(?m)^__version__ = .*", f'__version__ = "{version}"', init.read_text(encoding="utf-8")))
    (overlay / f"ultralytics-{version}.dist-info").mkdir()
    (overlay / f"ultralytics-{version}.dist-info/METADATA").write_text(f"Name: ultralytics\nVersion: {version}\n")


@pytest.mark.parametrize("version", ["8.3.63", "8.3.199"])
def test_an_ultralytics_below_the_floor_stays_as_it_is(run, overlay, version):
    """One line names it and the command, however often it is asked for, and nothing of it is replaced."""
    of_release(overlay, version)
    out = run(
        "import yolov12_plugin as y12\n"
        "from ultralytics import YOLO\n"
        "from ultralytics.utils import checks\n"
        "from ultralytics.nn.modules import block\n"
        "assert not y12.is_registered() and not y12.register()\n"
        "assert block.A2C2f.forward.__module__ == 'ultralytics.nn.modules.block'\n"
        "assert not any(hasattr(f, '__wrapped__') for f in (checks.check_file, checks.check_yolov5u_filename))",
        PYTHONPATH=os.pathsep.join([str(overlay), os.environ.get("PYTHONPATH", "")]),
    )
    [line] = [line for line in (out.stdout + out.stderr).splitlines() if "yolov12-plugin" in line]
    assert version in line and f'pip install --upgrade "ultralytics>={registry.TESTED[0]}"' in line
    assert "update yolov12-plugin" not in line


@pytest.mark.parametrize(
    "version, old", [("8.3.63", True), (registry.TESTED[0], False), ("9.0", False), ("main", False)]
)
def test_commands_below_the_floor(monkeypatch, version, old):
    monkeypatch.setattr("yolov12_plugin.cli.version_of", lambda name: version)
    done = yolov12("paper", "list")
    assert done.exit_code == 2 * old
    assert not old or (version in done.stderr and registry.TESTED[0] in done.stderr and done.stderr.count("\n") == 1)


def test_a_moved_symbol_that_the_modules_build_on(run, overlay):
    for path in (overlay / "ultralytics").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "C3k" in text:
            path.write_text(re.sub(r"\bC3k\b", "C3kBlock", text), encoding="utf-8")
    out = run(
        "from ultralytics import YOLO\n"
        "import ultralytics.utils.checks as checks, yolov12_plugin as y12\n"
        "assert not y12.is_registered() and not y12.register()\n"
        "assert checks.check_yolov5u_filename.__code__.co_filename.endswith('checks.py')",
        PYTHONPATH=str(overlay),
    )
    assert len(out.stderr.splitlines()) == 1 and "C3k" in out.stderr, out.stderr
    assert ultralytics.__version__ in out.stderr


LOADERS = {
    "finder without find_spec": (
        "class Legacy:\n    def find_module(self, *args): pass\nif sys.version_info < (3, 12): sys.meta_path.insert(0, Legacy())\n"
    ),
    "loader with slots": (
        "from importlib.machinery import PathFinder, SourceFileLoader\n"
        "class Loader:\n"
        "    __slots__ = ('real',)\n"
        "    def __init__(self, real): self.real = real\n"
        "    def create_module(self, spec): return self.real.create_module(spec)\n"
        "    def exec_module(self, module): return self.real.exec_module(module)\n"
        "class Finder:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        spec = PathFinder.find_spec(name, path, target) if name.startswith('ultralytics.nn') else None\n"
        "        if spec: spec.loader = Loader(spec.loader)\n"
        "        return spec\n"
        "sys.meta_path.insert(0, Finder)\n"
    ),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_unusual_importers(fork, kind):
    fork(f"import sys\n{LOADERS[kind]}from ultralytics import YOLO; YOLO('yolo11n.yaml', verbose=False)")


HOOK = """
import importlib.util, sys
class Hook:
    looking = set()
    def find_spec(self, name, path=None, target=None):
        if not name.startswith("ultralytics") {guard}:
            return None
        self.looking.add(name)
        try:
            {find}
        finally:
            self.looking.discard(name)
        {wrap}
        return spec
hook = Hook()
def wrapped(loader):
    load = loader.exec_module
    def exec_module(module):
        load(module)
        seen.append(module.__name__)
    loader.exec_module = exec_module
seen = []
sys.meta_path.insert({place}, hook)
{later}
import yolov12_plugin as y12
from ultralytics import YOLO
YOLO("yolov12n.yaml", verbose=False)
assert y12.is_registered()
assert {count} and not [f for f in sys.meta_path if getattr(f, "__module__", "") == "yolov12_plugin.autoload"]
"""
ASKS = {
    "all others": "spec = next((s for f in list(sys.meta_path) if f is not self and (s := f.find_spec(name, path, target))), None)",
    "those behind it": (
        "spec = next((s for f in sys.meta_path[sys.meta_path.index(self) + 1:] if (s := f.find_spec(name, path, target))), None)"
    ),
    "importlib": "spec = importlib.util.find_spec(name)",
}
AGAIN = "import yolov12_plugin.autoload as a; a.uninstall(); a.install()"


@pytest.mark.parametrize(
    "place, later",
    [*((place, "") for place in ("0", "1", "len(sys.meta_path)")), pytest.param("0", AGAIN, id="we before it")],
)
@pytest.mark.parametrize("asks", ASKS)
def test_beside_another_import_hook(fork, asks, place, later):
    """It may ask the finders that remain, ours too, which asks it: no search goes round in a circle."""
    guard = "or name in self.looking" if asks == "importlib" else ""
    wrap = "" if asks == "importlib" else "if spec and hasattr(spec.loader, 'exec_module'): wrapped(spec.loader)"
    count = "True" if place.startswith("len") or not wrap else "'ultralytics.nn.tasks' in seen"
    fork(HOOK.format(guard=guard, find=ASKS[asks], wrap=wrap, place=place, later=later, count=count))


def test_a_moved_module_warns_too(run, overlay):
    (overlay / "ultralytics/nn/tasks.py").rename(overlay / "ultralytics/nn/parser.py")
    (overlay / "ultralytics/nn/__init__.py").write_text("")
    out = run(
        "import ultralytics.utils.checks, yolov12_plugin as y; assert not y.is_registered()", PYTHONPATH=str(overlay)
    )
    assert len(out.stderr.splitlines()) == 1 and "ultralytics.nn.tasks" in out.stderr, out.stderr


def test_a_broken_plugin_does_not_break_ultralytics(fork):
    """The plugin fails while it is imported: Ultralytics works, and one line says so."""
    out = fork(
        "import sys; sys.modules['yolov12_plugin.names'] = None\n"
        "from ultralytics import YOLO; YOLO('yolo11n.yaml', verbose=False)"
    )
    assert len(out.stderr.splitlines()) == 1 and "yolov12-plugin is off: ModuleNotFoundError" in out.stderr, out.stderr


def test_table_is_complete():
    """Each row says why; no attribute is listed twice."""
    assert len({(p.owner, p.attribute) for p in registry.PATCHES}) == len(registry.PATCHES)
    assert all(p.why for p in registry.PATCHES)


def test_nothing_else_of_ultralytics_changes(fork):
    """Every attribute of every loaded Ultralytics module but those of the table is the one it was."""
    snapshot = (
        "import sys, ultralytics.models, ultralytics.data.utils, ultralytics.engine.exporter, yolov12_plugin as y12\n"
        "import ultralytics.solutions.streamlit_inference\n"
        "from yolov12_plugin.registry import PATCHES\n"
        "seen = lambda: {(n, a): v for n, m in list(sys.modules.items()) if m and n.startswith('ultralytics')\n"
        "                for a, v in vars(m).items()}\n"
        "on = seen(); y12.unregister(); off = seen()\n"
        "changed = {key for key in off if key in on and on[key] is not off[key]}\n"
        "listed = {(p.owner, p.attribute) for p in PATCHES if ':' not in p.owner} | {(m, p.attribute) for p in PATCHES for m in p.reexports}\n"
        "listed &= set(off)\n"  # older ones import less
        "assert changed == listed, changed ^ listed"
    )
    fork(snapshot)
