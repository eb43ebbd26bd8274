"""The types of the public names, as a type checker reads them: `__init__.pyi`."""

import ast
import re
import sys

from conftest import ROOT

import yolov12_plugin as y12

STUB = ast.parse((ROOT / "yolov12_plugin/__init__.pyi").read_text(encoding="utf-8"))

# Each line with what it reveals, or with the error that it is.
CONSUMER = """
import torch
import yolov12_plugin as y12

reveal_type(y12.__version__)  # str
reveal_type(y12.register())  # bool
y12.register("now")  # [call-arg]
reveal_type(y12.is_registered())  # bool
y12.is_registered(1)  # [call-arg]
y12.unregister()
y12.unregister(1)  # [call-arg]

reveal_type(y12.AAttn(64, 2, area=4))  # yolov12_plugin.nn.modules.AAttn
reveal_type(y12.AAttn(64, 2).areas(8, 8))  # torch._tensor.Tensor
y12.AAttn("64", 2)  # [arg-type]
y12.AAttn(64, 2, vertically=True)  # [call-arg]
reveal_type(y12.ABlock(64, 2, norm="ln"))  # yolov12_plugin.nn.modules.ABlock
y12.ABlock(64, 2, mlp_ratio="2")  # [arg-type]
reveal_type(y12.A2C2f(64, 64, 2, residual=0.01))  # yolov12_plugin.nn.modules.A2C2f
y12.A2C2f(64, c2="64")  # [arg-type]
y12.A2C2f(64)  # [call-arg]
module: torch.nn.Module = y12.A2C2f(64, 64)

with y12.attention_backend("math") as nothing:
    reveal_type(nothing)  # None
y12.attention_backend(None)  # [arg-type]
with y12.checkpointing():
    reveal_type(y12.checkpointing(False))  # yolov12_plugin.nn.checkpointing.checkpointing
y12.checkpointing("on")  # [arg-type]

reveal_type(y12.preset("n", kind="finetune"))  # dict[str, Any]
y12.preset(1)  # [arg-type]
reveal_type(y12.convert("a.pt", "b.pt", to="stock"))  # dict[str, Any]
y12.convert("a.pt", "b.pt")  # [call-arg]
y12.convert(1, "b.pt", "stock")  # [arg-type]
reveal_type(y12.push("a.pt", "org/name", private=True))  # str
y12.push("a.pt", "org/name", True)  # [call-arg]
reveal_type(y12.pull("org/name", revision="main"))  # ultralytics.models.yolo.model.YOLO
y12.pull("org/name", "main")  # [call-arg]
checked = y12.verify_export("a.pt", "a.onnx", imgsz=64)
reveal_type(checked)  # yolov12_plugin.deploy.verify.Verification
reveal_type(checked.diverging)  # str | None
y12.verify_export("a.pt", "a.onnx", imgsz="64")  # [arg-type]

reveal_type(y12.TensorRTBenchmark(runs=10).result)  # dict[str, Any] | None
y12.TensorRTBenchmark(10)  # [call-arg]
guard = y12.TrainingGuard()
guard.attach(None)
reveal_type(guard.found[0].layer)  # str
y12.TrainingGuard(patience=3)  # [call-arg]
y12.no_such_name  # [attr-defined]
"""


def test_stub_has_the_public_names():
    """Each from where it is imported at run time, and nothing else."""
    found = {
        a.asname: (node.module, a.name) for node in STUB.body if isinstance(node, ast.ImportFrom) for a in node.names
    }
    public = {name: (f"yolov12_plugin.{module}", name) for module, names in y12._MODULES.items() for name in names}
    assert found == public
    (listed,) = (node.value for node in STUB.body if isinstance(node, ast.Assign))
    assert sorted(ast.literal_eval(listed)) == sorted(y12.__all__) == sorted(public)
    assert all(hasattr(y12, name) for name in y12.__all__)


def test_every_public_name_is_used_here():
    assert all(f"y12.{name}" in CONSUMER for name in y12.__all__)


def test_types_of_the_public_names(run, tmp_path):
    script = tmp_path / "consumer.py"
    script.write_text(CONSUMER)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary", script]
    done = run([*mypy, "--config-file=", "--cache-dir", tmp_path / "cache"], check=False, MYPYPATH=str(ROOT))
    assert done.stderr == ""
    found = {}
    for line in done.stdout.splitlines():
        number, kind, said = re.fullmatch(r"consumer\.py:(\d+): (\w+): (.*)", line).groups()
        if kind == "error":
            found[int(number)] = said[said.rindex("[") :]
        elif said.startswith("Revealed"):
            found[int(number)] = re.search('"(.*)"', said)[1].replace("builtins.", "")
    expected = {i: line.split("  # ")[1] for i, line in enumerate(CONSUMER.splitlines(), 1) if "  # " in line}
    assert found == expected
