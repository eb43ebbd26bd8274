import json
import math
import os
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
from conftest import yolov12

from yolov12_plugin import __version__
from yolov12_plugin.cli import common
from yolov12_plugin.cli.common import status
from yolov12_plugin.models import MODELS

YOLOV12 = Path(sys.executable).with_name("yolov12")


def test_help_lists_the_commands(run):
    assert "paper" in run([YOLOV12, "--help"]).stdout
    assert "table1" in run([YOLOV12, "paper", "--help"]).stdout


def test_table1():
    rows = json.loads(yolov12("paper", "table1", "--json").stdout)
    paper = [model for model in MODELS.values() if model.release == "v1.0"]
    assert [row["model"] for row in rows] == [f"YOLOv12-{model.scale.upper()}" for model in paper]
    for row, model in zip(rows, paper):
        assert row["gflops"] == row["gflops_paper"] == model.gflops
        assert row["params_m"] == row["params_m_paper"] == model.parameters_m
        assert (row["ap_paper"], row["latency_ms_paper"]) == (model.ap, model.latency)
    table = yolov12("paper", "table1").stdout
    assert "YOLOv12-N" in table and "11.79" in table


def test_table1_is_of_the_plugin_s_own_models(fork, tmp_path):
    (tmp_path / "yolov12n.yaml").write_text("nc: 3\n")
    (tmp_path / "yolov12.yaml").write_text("nc: 3\n")
    assert json.loads(fork([YOLOV12, "paper", "table1", "--json"]).stdout)[0]["gflops"] == 6.5


def test_json_is_clean_on_a_fresh_machine(fork, tmp_path):
    """Ultralytics announces its new settings file on the standard output."""
    out = fork([YOLOV12, "paper", "table1", "--json"], YOLO_CONFIG_DIR=str(tmp_path / "fresh"))
    json.loads(out.stdout)


@pytest.mark.process
def test_unknown_command():
    done = subprocess.run([YOLOV12, "paper", "table99"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("Error: there is no yolov12 paper table99; ") and done.stderr.count("\n") == 1


MODULE = [sys.executable, "-m", "yolov12_plugin"]


def test_version(run):
    said = f"yolov12-plugin {__version__}, ultralytics {version('ultralytics')}, torch {version('torch')}\n"
    assert run([YOLOV12, "--version"]).stdout == run([*MODULE, "--version"]).stdout == said


def test_version_is_quick(run):
    code = (
        "import atexit, sys; sys.argv = ['yolov12', '--version']\n"
        "atexit.register(lambda: print({'torch', 'ultralytics', 'rich'} & set(sys.modules)))\n"
        "from yolov12_plugin.cli import app; app()"
    )
    assert run(code).stdout.splitlines()[1] == "set()"


@pytest.mark.parametrize("missing", ["ultralytics", "torch"])
def test_version_of_what_is_not_installed(monkeypatch, missing):
    def version_of(package):
        if package == missing:
            raise PackageNotFoundError(package)
        return "1.2"

    monkeypatch.setattr("yolov12_plugin.cli.version_of", version_of)
    said = yolov12("--version")
    assert said.exit_code == 0 and f"{missing} unknown" in said.stdout and said.stdout.count(" 1.2") == 1


def test_module_is_the_command(run):
    assert "Usage: yolov12 [OPTIONS] COMMAND" in run([*MODULE, "--help"]).stdout
    assert "Usage: yolov12 paper" in run([*MODULE, "paper", "--help"]).stdout
    done = run([*MODULE, "paper", "table99"], check=False)
    assert done.returncode == 2 and done.stderr.startswith("Error: there is no yolov12 paper table99; ")


@pytest.mark.parametrize("command", [["--help"], ["paper", "table2"], ["paper", "table7", "--markdown"]])
def test_streams_of_few_characters(run, command):
    """As a file or a pipe on Windows, which is not in UTF-8."""
    assert run([*MODULE, *command], PYTHONIOENCODING="ascii").stdout


QUICK = ["--version"], ["paper", "list"]


@pytest.mark.process
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("command", QUICK, ids=" ".join)
def test_a_full_disk_under_the_output(command, tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run([YOLOV12, *command], stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr == "Error: the output cannot be written: No space left on device\n"


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
@pytest.mark.parametrize("command", QUICK, ids=" ".join)
def test_a_reader_that_reads_no_further(command, tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([YOLOV12, *command], stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    os.close(write)
    assert done.returncode == 141 and not done.stderr


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such shell")
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
@pytest.mark.parametrize("command", QUICK, ids=" ".join)
def test_streams_that_are_closed(run, command, closed):
    done = run(["sh", "-c", f"{YOLOV12} {' '.join(command)} {closed}"], check=False)
    assert done.returncode == 0 and not done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_ended_says_so(number, code, monkeypatch, interruptible):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("yolov12_plugin.cli.paper.contents", lambda: signal.raise_signal(number))
    done = yolov12("paper", "table7")
    assert done.exit_code == code and done.stderr == "Interrupted\n" and not done.stdout
    assert signal.getsignal(signal.SIGTERM) is before


def test_nothing_heavy_is_imported_to_read_a_command(run):
    code = "import sys, yolov12_plugin.cli; print(*{'torch', 'ultralytics', 'matplotlib', 'numpy', 'rich'} & set(sys.modules))"
    assert run(code).stdout.split() == []


@pytest.mark.parametrize("command", [["--help"], ["paper", "--help"], ["paper", "table1", "--help"]])
def test_help(command):
    done = yolov12(*command)
    assert done.exit_code == 0 and "Usage" in done.stdout


@pytest.mark.parametrize("command", [[], ["paper"]])
def test_no_command_is_help(command):
    done = yolov12(*command)
    assert "Usage" in done.output and "Error" not in done.output


@pytest.mark.parametrize(
    "command, said",
    [
        (["convert", "a.pt", "b.pt", "--to", "stok"], "'stok' is not one of 'stock', 'plugin'; see `"),
        (["bench"], "Missing argument"),
        (["coco", "a.pt", "--batch", "0"], "'--batch'"),
        (["doctor", "a.pt", "b.pt"], "unexpected extra argument"),
        (["--verison"], "did you mean --version? options are --version, --help"),
    ],
)
def test_usage_is_one_line(command, said):
    done = yolov12(*command)
    assert done.exit_code == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and said in line


@pytest.mark.process
def test_json_prints_and_out_writes(tmp_path):
    file = tmp_path / "doctor.json"
    done = yolov12("doctor", "--json", "--out", file)
    assert json.loads(done.stdout) == json.loads(file.read_text())
    assert "registered" in yolov12("doctor", "--out", file).stdout and json.loads(file.read_text())
    done = yolov12("doctor", "--out", tmp_path / "none/doctor.json")
    assert done.exit_code == 2 and "none/doctor.json cannot be written" in done.stderr


@pytest.mark.parametrize(
    "said, shown",
    [
        ("trust=True would", "--trust would"),
        ("take device=cpu", "take --device cpu"),
        ("(imgsz=33): it", "(--imgsz 33): it"),
        ("as lr0=0.01, or device=0.", "as lr0=0.01, or --device 0."),
        ("max_det=5", "--max-det 5"),
    ],
)
def test_what_the_library_says_of_arguments_is_said_in_flags(said, shown):
    """Nothing below the commands knows of their flags."""
    from typer.main import get_command

    from yolov12_plugin.cli import app

    both = [parameter for name in ("coco", "doctor") for parameter in get_command(app).commands[name].params]
    token = common.running.set(type("Command", (), {"params": both}))
    try:
        assert common.in_flags(said) == shown
    finally:
        common.running.reset(token)


def test_records_are_json_whatever_their_values():
    record = {
        "a": math.nan,
        "b": [math.inf, 1.5],
        "c": {1},
        "d": np.float32(2),
        "e": np.float64("nan"),
        5: Path("x"),
        "f": True,
    }
    found = json.loads(common.to_json(record), parse_constant=pytest.fail)
    assert found == {"a": None, "b": [None, 1.5], "c": [1], "d": 2.0, "e": None, "5": "x", "f": True}


def test_names_of_files_are_no_markup():
    from yolov12_plugin.show.view import View

    table = View("Models", {"name": "Name"}, [{"name": "[red]a[/x] :smile:\x1b[31m"}])
    assert "[red]a[/x] :smile:?[31m" in table.markdown()


@pytest.mark.parametrize(
    "command, said",
    [
        (["bench", "missing.pt"], "missing.pt does not exist: check the path"),
        (["bench", "emptydir"], "emptydir is a folder, and not of an exported model: those end as in best_ncnn_model"),
        (["bench", "yolov12xx.yaml"], "'yolov12xx.yaml' does not exist; did you mean yolov12x.yaml?"),
        (["export-triton", "missing.pt", "out"], "missing.pt does not exist: check the path"),
        (["export-triton", "emptydir", "out"], "emptydir is a folder, and not of an exported model: those end as in best_ncnn_model"),
        (["export-deepstream", "missing.pt", "out"], "missing.pt does not exist: check the path"),
        (["doctor", "yolov12n_turbo.pt"], "'yolov12n_turbo.pt' does not exist; did you mean yolov12n-turbo.pt?"),
        (["doctor", "yolov12n.yaml"], "yolov12n.yaml is no checkpoint but a YAML, which has no weights: give a .pt file"),
        (["paper", "ablation", "table1"], "table1 is no ablation: see `yolov12 paper table1`; ablations are table2, "),
        (["paper", "ablation", "figure4"], "figure4 is no ablation: see `yolov12 paper figure4`; ablations are table2, "),
        (["paper", "ablation", "9"], "no ablation is named '9'; ablations are table2, "),
        (["paper", "table9"], "tables and figures are list, table1, "),
        (["paper", "tabel5a"], "did you mean table5a? "),
        (["table1"], "paper table1? commands are doctor, "),
    ],
)  # fmt: skip
def test_messages_name_what_is_wrong(command, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emptydir").mkdir()
    done = yolov12(*command)
    (line,) = done.stderr.splitlines()
    assert done.exit_code == 2 and line.startswith("Error: ") and said in line
    assert "Errno" not in line and line.count("does not exist") <= 1


@pytest.mark.parametrize("name", ["5a", "5A", "table5a", "7"])
def test_a_table_by_its_number_alone(name):
    done = yolov12("paper", name, "--json")
    assert (
        done.exit_code == 0 and done.stdout == yolov12("paper", "table7" if name == "7" else "table5a", "--json").stdout
    )


@pytest.mark.parametrize("what", ["[/x].pt ...", "[red]a ..."])
def test_what_is_at_work_is_no_markup(what):
    with status(what) as shown:
        assert str(shown.renderable.text) == what
