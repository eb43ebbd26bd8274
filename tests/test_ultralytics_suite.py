import subprocess
import sys
import tarfile
from argparse import Namespace

import pytest
import ultralytics_suite
from ultralytics_column import read, renamed
from ultralytics_suite import await_end, compare, differing, unpack


def results(**outcomes):
    return {test: {"outcome": outcome, "why": ""} for test, outcome in outcomes.items()}


def test_only_what_passes_off_and_does_not_hold_on_is_a_difference():
    off = results(b="passed", a="passed", both="failed", mended="failed", fine="passed", skip="skipped", less="passed")
    on = results(b="failed", both="failed", mended="passed", fine="passed", skip="failed", less="skipped", new="failed")
    assert differing(off, on) == ["a", "b"]  # `a` has not been run
    assert differing(off, off) == []


@pytest.mark.parametrize(
    "text, expected",
    [
        ('WEIGHTS_DIR / "path with spaces" / "yolo26n.pt"', 'WEIGHTS_DIR / "path with spaces" / "yolov12n.pt"'),
        ("yolo11s-seg.yaml, yolo11n-grayscale.pt", "yolov12s-seg.yaml, yolov12n-grayscale.pt"),
        ("yolo26n-sem.pt yolo26-depth.yaml yolov10n.yaml yoloe-26n-seg.pt yolo26n-reid.onnx", None),
    ],
)
def test_models_of_a_family_take_the_place_of_those_that_it_has(text, expected):
    assert renamed(text, "yolov12") == (expected or text)


def test_the_last_line_of_a_test_is_its_result(tmp_path):
    file = tmp_path / "results.jsonl"
    assert read(file) == {}
    file.write_text(
        '{"test": "a", "outcome": "failed"}\n{"test": "a", "outcome": "passed"}\n{"test": "b", "outcome": "failed"}\n'
    )
    assert {test: result["outcome"] for test, result in read(file).items()} == {"a": "passed", "b": "failed"}


@pytest.mark.process
def test_a_process_in_which_nothing_begins_or_ends_is_killed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    assert await_end(process, tmp_path / "results.jsonl", 0.1) == -1
    assert process.poll() is not None
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], start_new_session=True)
    assert await_end(process, tmp_path / "results.jsonl", 60) == 3


@pytest.fixture
def columns(tmp_path, monkeypatch):
    """Runs both columns of an archive that is given by its test file, without checkpoints and data."""

    def columns(code):
        (tmp_path / "test_one.py").write_text(code)
        archive = tmp_path / "archive.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(tmp_path / "test_one.py", "ultralytics-1/tests/test_one.py")
            tar.add(tmp_path / "test_one.py", "ultralytics-1/ultralytics/test_other.py")
        monkeypatch.setattr(
            ultralytics_suite, "set_up", lambda archive, home, column, args: unpack(archive, home, column)
        )
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # seconds of each process
        return compare(tmp_path, Namespace(archive=archive, workers=1, k=None, limit=2))

    return columns


@pytest.mark.process
def test_the_columns_of_an_archive(columns):
    report = columns("""
import os, pathlib, time

on = os.environ["YOLO12_PLUGIN"] == "on"

def test_both():
    assert "yolo26n.pt" == ("yolov12n.pt" if on else "yolo12n.pt")

def test_neither():
    raise ValueError("no")

def test_hangs():
    time.sleep(600)

def test_on_ends_the_process():
    if on:
        os._exit(1)

def test_on_fails():
    assert not on

def test_on_fails_once():
    seen = pathlib.Path("seen").exists()
    pathlib.Path("seen").touch()
    assert seen or not on

def test_skipped_offline():
    assert not "not ONLINE".startswith("not")
""")
    names = {column: {t.split("::")[1]: r["outcome"] for t, r in report[column].items()} for column in ("off", "on")}
    both = {"test_both": "passed", "test_neither": "failed", "test_hangs": "failed", "test_skipped_offline": "passed"}
    differ = ("test_on_ends_the_process", "test_on_fails", "test_on_fails_once")
    assert names["off"] == both | dict.fromkeys(differ, "passed")
    assert names["on"] == both | dict.fromkeys(differ, "failed")
    assert report["differences"] == ["test_one.py::test_on_ends_the_process", "test_one.py::test_on_fails"]
    assert report["unsteady"] == ["test_one.py::test_on_fails_once"]


@pytest.mark.process
def test_columns_in_which_nothing_passes_are_no_success(columns):
    with pytest.raises(SystemExit):
        columns("import nothing_of_this_name")
