import json
import sys
from pathlib import Path

import torch
import ultralytics

YOLOV12 = Path(sys.executable).with_name("yolov12")


def test_what_is_installed_and_chosen(run, tmp_path):
    found = json.loads(run([YOLOV12, "doctor", "--json"], YOLO_CONFIG_DIR=str(tmp_path / "fresh")).stdout)
    assert found["versions"]["ultralytics"] == ultralytics.__version__
    assert torch.__version__.startswith(found["versions"]["torch"].partition("+")[0])
    assert found["registered"]
    rows = {row["dtype"]: row for row in found["attention"] if row["device"] == "cpu"}
    assert list(rows) == ["float32", "float16", "bfloat16"]
    assert all((row["selected"], row["backend"]) == ("auto", "sdpa") for row in rows.values())
    assert all("NVIDIA GPU" in row["why"] for row in rows.values())


def test_table(run):
    table = run([YOLOV12, "doctor"], COLUMNS="200").stdout
    assert "sdpa" in table and "flash-attn needs an NVIDIA GPU, not cpu" in table and "is registered" in table
    assert "is not registered" in run([YOLOV12, "doctor"], YOLO12_PLUGIN="off").stdout


def test_backend_of_the_environment(run):
    def rows(name):
        out = run([YOLOV12, "doctor", "--json"], YOLO12_ATTENTION=name).stdout
        return [(row["selected"], row["backend"], row["why"]) for row in json.loads(out)["attention"]]

    assert set(rows("math")) == {("math", "math", "selected")}
    for name, why in ("flash", "is not installed: pip install flash-attn"), ("flsh", "'flsh' is unknown"):
        assert all(selected == name and backend == "none" and why in said for selected, backend, said in rows(name))
