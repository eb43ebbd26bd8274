"""Whose the classes are that the plugin replaces: released ones without a word, any other aloud."""

import base64
import hashlib
import json
import os
import sys
import types
from pathlib import Path

import pytest
import ultralytics
from ultralytics.nn.modules import block

import yolov12_plugin as y12
from yolov12_plugin import ownership, patching, registry

BLOCK = Path(block.__file__)
IMPORT = "import ultralytics.nn.tasks, yolov12_plugin as y12; assert y12.is_registered()"
SWITCH = "YOLO12_PLUGIN=off"


def said(done):
    return [line for line in done.stderr.splitlines() if "yolov12-plugin" in line]


def edited(name, old, new):
    """The source of block.py with the first `old` after the head of a class replaced."""
    text = BLOCK.read_text(encoding="utf-8")
    at = text.index(old, text.index(f"class {name}("))
    return text[:at] + new + text[at + len(old) :]


EDITS = {
    "A2C2f": ("y = [self.cv1(x)]", "A2C2f.mine = True\n        y = [self.cv1(x)]"),
    "AAttn": ("7, 1, 3", "5, 1, 2"),
    "ABlock": ("mlp_ratio: float = 1.2", "mlp_ratio: float = 1.5"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_class_is_replaced_aloud(run, overlay, name):
    """In a copy of Ultralytics on PYTHONPATH, or in a clone: nothing of an installation lies beside it."""
    file = overlay / "ultralytics/nn/modules/block.py"
    file.write_text(edited(name, *EDITS[name]), encoding="utf-8")
    again = "; y12.unregister(); assert y12.register()"
    lines = said(run(IMPORT + again, PYTHONPATH=str(overlay)))
    assert len(lines) == 1, lines
    assert f"ultralytics.nn.modules.block.{name} from {file}" in lines[0] and SWITCH in lines[0]
    assert not [other for other in EDITS if other != name and f"block.{other}" in lines[0]]
    off = run("from ultralytics.nn.modules import block; print(block.A2C2f.__module__)", PYTHONPATH=str(overlay),
              YOLO12_PLUGIN="off")  # fmt: skip
    assert not said(off)


def test_edited_where_it_was_installed(run, overlay):
    """Its record has the digest of the file as it was."""
    installed(overlay, BLOCK.read_bytes())
    (overlay / "ultralytics/nn/modules/block.py").write_text(edited("A2C2f", *EDITS["A2C2f"]), encoding="utf-8")
    assert len(said(run(IMPORT, PYTHONPATH=str(overlay)))) == 1


def installed(folder, source):
    """Lay a record of an installation beside a package."""
    record = folder / "ultralytics-99.0.0.dist-info"
    record.mkdir()
    digest = base64.urlsafe_b64encode(hashlib.sha256(source).digest()).rstrip(b"=").decode()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: ultralytics\nVersion: 99.0.0\n")
    (record / "RECORD").write_text(f"ultralytics/nn/modules/block.py,sha256={digest},{len(source)}\n")


UNTOUCHED = {
    "as it is": str,
    "another class edited": lambda text: text.replace("class C2f(nn.Module):", "class C2f(nn.Module):\n    mine = 1\n"),
    "a class added": lambda text: text + "\n\nclass Mine(A2C2f):\n    def forward(self, x):\n        return x\n",
    "comments, layout, docstrings": lambda text: (
        text.replace("        y = [self.cv1(x)]", "        # mine\n        y = [self.cv1(x)]")
        .replace("    def forward(self, x: torch.Tensor) -> torch.Tensor:", "    def forward(\n        self, x\n    ):")
        .replace('"""Area-Attention C2f module', '"""Of mine: Area-Attention C2f module')
    ),
}


@pytest.mark.parametrize("kind", UNTOUCHED)
def test_what_is_no_edit_of_these_classes_is_not_spoken_of(run, overlay, kind):
    source = UNTOUCHED[kind](BLOCK.read_text(encoding="utf-8"))
    assert (source == BLOCK.read_text(encoding="utf-8")) == (kind == "as it is")
    (overlay / "ultralytics/nn/modules/block.py").write_text(source, encoding="utf-8")
    assert not said(run(IMPORT, PYTHONPATH=str(overlay)))


@pytest.mark.parametrize("beside", [True, False])
def test_a_release_to_come(run, overlay, tmp_path, beside):
    """Its classes are in no table, its file is the installed one; also of a copy that comes first on the path."""
    source = edited("AAttn", "x = x + self.pe(v)", "x = self.pe(v) + x").encode()
    (overlay / "ultralytics/nn/modules/block.py").write_bytes(source)
    record = overlay if beside else tmp_path / "elsewhere"
    record.mkdir(exist_ok=True)
    installed(record, source)
    assert not said(run(IMPORT, PYTHONPATH=os.pathsep.join([str(overlay), str(record)])))


def test_as_installed(run):
    assert not said(run(IMPORT))


def test_source_that_is_not_there(run, overlay):
    """A class nobody can read is nobody's."""
    import py_compile

    file = overlay / "ultralytics/nn/modules/block.py"
    file.write_text(edited("A2C2f", *EDITS["A2C2f"]), encoding="utf-8")
    py_compile.compile(str(file), cfile=str(file.with_suffix(".pyc")), doraise=True)
    file.unlink()
    assert not said(run(IMPORT, PYTHONPATH=str(overlay)))


PLUGIN = """
import sys
from importlib.machinery import PathFinder


class Hook:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "ultralytics.nn.modules.block":
            return None
        spec = PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)

            class A2C2f(module.A2C2f):
                def forward(self, x):
                    return super().forward(x)

            module.A2C2f = A2C2f

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Hook)
"""


def test_another_plugin_that_was_first(run, tmp_path):
    (tmp_path / "other_plugin.py").write_text(PLUGIN)
    (tmp_path / "sitecustomize.py").write_text("import other_plugin")
    lines = said(run(IMPORT, PYTHONPATH=str(tmp_path)))
    assert len(lines) == 1 and f"block.A2C2f from {tmp_path / 'other_plugin.py'}" in lines[0] and SWITCH in lines[0]
    assert "AAttn" not in lines[0]


@pytest.mark.parametrize("variable, lines", [({"RANK": "0"}, 1), ({"RANK": "1"}, 0), ({"RANK": "-1"}, 1)])
def test_one_rank_of_a_distributed_training_says_it(run, overlay, variable, lines):
    (overlay / "ultralytics/nn/modules/block.py").write_text(edited("A2C2f", *EDITS["A2C2f"]), encoding="utf-8")
    assert len(said(run(IMPORT, PYTHONPATH=str(overlay), **variable))) == lines


def test_spawned_workers_do_not_say_it(run, overlay, tmp_path):
    (overlay / "ultralytics/nn/modules/block.py").write_text(edited("A2C2f", *EDITS["A2C2f"]), encoding="utf-8")
    script = tmp_path / "spawn.py"
    script.write_text(
        "def build():\n"
        "    import ultralytics.nn.tasks, yolov12_plugin\n"
        "    assert yolov12_plugin.is_registered()\n"
        "if __name__ == '__main__':\n"
        "    import multiprocessing\n"
        "    child = multiprocessing.get_context('spawn').Process(target=build)\n"
        "    child.start(); child.join(); raise SystemExit(child.exitcode)\n"
    )
    assert not said(run([sys.executable, script], PYTHONPATH=str(overlay)))


def test_doctor_tells_of_it(run, overlay):
    (overlay / "ultralytics/nn/modules/block.py").write_text(edited("A2C2f", *EDITS["A2C2f"]), encoding="utf-8")
    command = [Path(sys.executable).with_name("yolov12"), "doctor", "--json"]
    rows = json.loads(run(command, PYTHONPATH=str(overlay)).stdout)["findings"]
    found = [row for row in rows if row["remedy"] == SWITCH]
    assert [row["level"] for row in found] == ["warning"] and "ultralytics.nn.modules.block.A2C2f" in found[0]["what"]
    assert str(overlay) in found[0]["what"]
    off = json.loads(run(command, PYTHONPATH=str(overlay), YOLO12_PLUGIN="off").stdout)["findings"]
    assert not [row for row in off if row["remedy"] == SWITCH]


def test_doctor_has_nothing_to_tell_of_a_release():
    from yolov12_plugin.doctor import replaced_code

    assert replaced_code() == []


@pytest.mark.usefixtures("stock")
class TestClasses:
    """Objects in the place of a class, in this process."""

    def test_released(self):
        for name in ownership.RELEASED:
            assert ownership.origin(name, getattr(block, name)) is None

    def test_the_installed_release_is_in_the_table(self):
        """Where this fails on a new Ultralytics whose classes are right to replace: add what it shows to RELEASED."""
        found = ownership.fingerprints(BLOCK.read_bytes())
        assert found.keys() == ownership.RELEASED.keys()
        unknown = {name: digest for name, digest in found.items() if digest not in ownership.RELEASED[name]}
        assert not unknown, f"Ultralytics {ultralytics.__version__}"

    def test_a_subclass(self):
        class A2C2f(block.A2C2f):
            pass

        assert ownership.origin("A2C2f", A2C2f) == __file__

    def test_a_class_of_another_module_under_that_of_ultralytics(self):
        class A2C2f(block.A2C2f):
            def forward(self, x):
                return x

        A2C2f.__module__, A2C2f.__qualname__ = "ultralytics.nn.modules.block", "A2C2f"
        assert ownership.origin("A2C2f", A2C2f) == __file__

    def test_another_class_of_ultralytics(self):
        assert ownership.origin("A2C2f", block.C2f) == block.__file__

    def test_a_method_put_in_its_place(self, monkeypatch):
        monkeypatch.setattr(block.AAttn, "forward", lambda self, x: x)
        assert ownership.origin("AAttn", block.AAttn) == __file__
        monkeypatch.setattr(block.AAttn, "forward", block.C2f.forward)
        assert ownership.origin("AAttn", block.AAttn) == block.__file__

    def test_a_decorator_of_pytorch_is_no_edit(self, monkeypatch):
        import torch

        monkeypatch.setattr(block.AAttn, "forward", torch.no_grad()(block.AAttn.forward))
        assert ownership.origin("AAttn", block.AAttn) is None

    @pytest.mark.parametrize("thing", [None, 3, "A2C2f", lambda *args: None, types.SimpleNamespace(__module__=None)])
    def test_what_is_no_class_is_no_released_one(self, thing):
        assert ownership.origin("A2C2f", thing)

    def test_the_plugin_s_own(self):
        assert ownership.origin("A2C2f", y12.A2C2f) is None


def test_registration_goes_on_where_it_cannot_be_told(monkeypatch):
    def broken(symbols):
        raise RuntimeError

    monkeypatch.setattr(ownership, "foreign", broken)
    y12.unregister()
    assert y12.register()


def test_register_after_another_plugin_names_it(caplog):
    """As `yolov12 doctor` advises where a class was replaced after the registration."""
    from ultralytics.nn import tasks

    class A2C2f(y12.A2C2f):
        pass

    ours = tasks.A2C2f
    tasks.A2C2f = A2C2f
    try:
        assert y12.register()
        assert [r for r in caplog.records if f"ultralytics.nn.tasks.A2C2f from {__file__}" in r.getMessage()]
        assert patching.replaced_classes(registry.PATCHES)["ultralytics.nn.tasks.A2C2f"] is A2C2f
    finally:
        tasks.A2C2f = ours
        y12.unregister()
        tasks.A2C2f = block.A2C2f
        assert y12.register()
