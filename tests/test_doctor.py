import json
import os
import re
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
import ultralytics
from conftest import ROOT, yolov12
from ultralytics.nn import tasks

from yolov12_plugin import doctor, registry
from yolov12_plugin.deploy import runtimes, tensorrt
from yolov12_plugin.nn import attention

YOLOV12 = Path(sys.executable).with_name("yolov12")
CPU = {"device": "cpu", "name": "a CPU"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("YOLO12_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def found():
    return doctor.report()


def said(report, level=None):
    return [row["what"] for row in report["findings"] if level in (None, row["level"])]


def test_what_is_installed_and_chosen(run, tmp_path):
    found = json.loads(run([YOLOV12, "doctor", "--json"], YOLO_CONFIG_DIR=str(tmp_path / "fresh")).stdout)
    assert found["versions"]["ultralytics"] == ultralytics.__version__
    assert torch.__version__.startswith(found["versions"]["torch"].partition("+")[0])
    assert found["registered"] and found["runs_at_start"]
    assert all(row["in_place"] for row in found["patches"])
    rows = {row["dtype"]: row for row in found["attention"] if row["device"] == "cpu"}
    assert list(rows) == ["float32", "float16", "bfloat16"]
    assert all((row["selected"], row["backend"]) == ("auto", "sdpa") for row in rows.values())
    assert all("NVIDIA GPU" in row["why"] for row in rows.values())


@pytest.mark.process
def test_table(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    table = yolov12("doctor", "--all").stdout
    assert "sdpa" in table and "flash-attn needs an NVIDIA GPU, not cpu" in table and "is registered" in table
    short = yolov12("doctor").stdout.splitlines()
    assert short[0].startswith("YOLOv12 runs here") and short[0].endswith("The plugin is registered.")
    assert len(short) < 30 and "flash-attn" not in "".join(short) and "Attribute" not in "".join(short)
    off = run([YOLOV12, "doctor"], YOLO12_PLUGIN="off").stdout
    assert "is not registered" in off and "-> unset YOLO12_PLUGIN" in off


def test_backend_of_the_environment(run, monkeypatch):
    report = json.loads(run([YOLOV12, "doctor", "--json"], YOLO12_ATTENTION="flsh").stdout)
    assert all((row["selected"], row["backend"]) == ("flsh", "none") for row in report["attention"])
    assert all("'flsh' is unknown" in row["why"] for row in report["attention"])
    assert "YOLO12_ATTENTION=flsh is unknown: every YOLOv12 fails" in said(report, "warning")
    assert report["settings"]["YOLO12_ATTENTION"] == "flsh"
    for name in "math", "sdpa":
        monkeypatch.setattr(attention.attention_backend, "default", name)
        report = doctor.report()
        assert {(row["selected"], row["backend"], row["why"]) for row in report["attention"]} == {
            (name, name, "selected")
        }
        assert f"attention on cpu: {name}" in said(report, "ok")


@pytest.mark.process
def test_schema(found):
    assert json.loads(json.dumps(found)) == found
    assert {"yolov12-plugin", "python", "ultralytics", "torch", "torchvision", "cuda", "cudnn"} <= set(
        found["versions"]
    )
    assert {package.name for package in doctor.PACKAGES} <= set(found["versions"])
    assert [row["attribute"] for row in found["patches"]] == [f"{p.owner}.{p.attribute}" for p in registry.PATCHES]
    assert [row["why"] for row in found["patches"]] == [p.why for p in registry.PATCHES]
    assert set(found["settings"]) == set(doctor.SETTINGS) and set(found["settings"].values()) == {None}
    cpu = found["devices"][0]
    assert cpu["device"] == "cpu" and cpu["name"] and min(cpu["cores"], cpu["threads"], cpu["memory_gib"]) > 0
    assert found["executable"] == sys.executable and found["platform"]
    for row in found["findings"]:
        assert set(row) == {"level", "what", "remedy"}
        # A package that no GPU here could use needs no remedy.
        assert bool(row["remedy"]) == (row["level"] != "ok" and "no GPU here" not in row["what"]), row
        assert "\n" not in row["what"] + row["remedy"]
    levels = [doctor.LEVELS.index(row["level"]) for row in found["findings"]]
    assert levels == sorted(levels) and doctor.LEVELS[levels[0]] != "error", found["findings"][0]
    optional = [what for what in said(found) if any(what.split()[0] == package.name for package in doctor.PACKAGES)]
    assert len(optional) == len(doctor.PACKAGES)


def test_nothing_optional_is_imported_and_torch_only_when_asked(run):
    run(
        "import sys, yolov12_plugin.doctor as d\n"
        "assert not {'torch', 'ultralytics'} & set(sys.modules)\n"
        "before = d.report()\n"
        "imported = {p.module for p in d.PACKAGES} & set(sys.modules)\n"
        "assert not imported, imported\n"
        "assert d.report() == before"
    )


# The command


@pytest.mark.process
@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_terminals(found, monkeypatch, width):
    findings = [
        *found["findings"],
        {"level": "error", "what": "é" * 80, "remedy": 'pip install "yolov12-plugin[export]"'},
    ]
    gpu = {"device": "cuda:0", "name": "T4", "memory_gib": 14.6, "compute_capability": "7.5", "driver": None}
    report = found | {"findings": findings, "devices": [*found["devices"], gpu]}
    monkeypatch.setattr(doctor, "report", lambda: report)
    monkeypatch.setenv("COLUMNS", str(width))
    short = yolov12("doctor")
    assert short.stdout.startswith("YOLOv12 does not run") and max(map(len, short.stdout.splitlines())) <= max(
        width, 60
    )
    assert "".join(findings[-1].values()).replace("error", "").replace(" ", "") in "".join(
        short.stdout.split()
    ).replace("->", "")
    out = yolov12("doctor", "--all")
    assert out.exit_code == 1 and max(map(len, out.stdout.splitlines())) <= width
    text = "".join(out.stdout.split())
    for row in findings:
        assert "".join((row["what"] + row["remedy"]).split()) in text.replace("->", ""), row
    if width >= 80:  # no name is broken
        assert all(row["attribute"] in out.stdout for row in found["patches"])
    if width == 200:
        assert "compute capability 7.5" in out.stdout and "None" not in out.stdout
        assert all(row["attribute"] in out.stdout and row["why"] in out.stdout for row in found["patches"])
        assert "float32, float16, bfloat16" in out.stdout


@pytest.mark.process
@pytest.mark.parametrize("level, code", [("ok", 0), ("note", 0), ("warning", 0), ("error", 1)])
def test_exit_codes(found, monkeypatch, level, code):
    monkeypatch.setattr(
        doctor, "report", lambda: found | {"findings": [{"level": level, "what": "it", "remedy": "do"}]}
    )
    assert yolov12("doctor").exit_code == code
    out = yolov12("doctor", "--json")
    assert out.exit_code == code and json.loads(out.stdout)["findings"][0]["level"] == level


@pytest.mark.process
def test_standard_output_is_json_alone(found, monkeypatch):
    monkeypatch.setattr(doctor, "report", lambda: print("a package says hello") or found)
    assert json.loads(yolov12("doctor", "--json").stdout) == found


@pytest.mark.process
def test_the_command_tells_of_yolo12_bench(monkeypatch):
    monkeypatch.setenv("YOLO12_BENCH", "1")
    report = json.loads(yolov12("doctor", "--json").stdout)
    assert report["settings"]["YOLO12_BENCH"] == "1"
    assert "YOLO12_BENCH=1: verifies and times what is exported" in said(report, "ok")
    yolov12("paper", "table1")
    assert "YOLO12_BENCH" not in os.environ


# Registration


@pytest.fixture
def bare(tmp_path):
    """A Python that sees this one's packages and runs none of its start-up files."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    code = "import site; print(site.getsitepackages()[0])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    packages = Path(done.stdout.strip())
    (packages / "outer.pth").write_text("\n".join(site.getsitepackages()))
    return python, packages


def test_a_folder_without_its_start_up_file(run, bare):
    """As `pip install --target` and PYTHONPATH leave it: it is said, and what the remedy names works."""
    python, packages = bare
    code = (
        "import json, yolov12_plugin as y; from yolov12_plugin.doctor import report\n"
        "print(json.dumps(report())); assert y.register()"
    )
    report = json.loads(run(code, python=python, PYTHONPATH=str(ROOT)).stdout.splitlines()[-1])
    assert not report["registered"] and report["runs_at_start"] is False
    assert not any(row["in_place"] for row in report["patches"])
    (warning,) = [row for row in report["findings"] if "import ultralytics" in row["what"]]
    assert warning["level"] == "warning" and str(ROOT / "yolov12_plugin") in warning["what"]
    assert "yolov12_plugin.register()" in warning["remedy"] and not said(report, "error")
    for file in "yolov12_plugin.pth", "yolov12_plugin.start":
        shutil.copy(ROOT / "yolov12_plugin" / file, packages)
    code = "from yolov12_plugin.doctor import runs_at_start; assert runs_at_start()"
    run(code, python=python, PYTHONPATH=str(ROOT))
    run(code, python=python, PYTHONPATH=str(ROOT), YOLO12_PLUGIN="off")  # it runs, and does nothing


def test_start_up_of_a_frozen_application_is_not_tried(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("it would start the application once more"))
    assert doctor.runs_at_start() is False


@pytest.mark.parametrize("executable", ["", "/not/there", shutil.which("false")])
def test_start_up_that_cannot_be_tried(monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    report = doctor.report()
    assert report["runs_at_start"] is None and report["registered"]
    assert any(what.startswith("runs at start:") for what in said(report, "warning"))


def test_registration_and_what_is_in_the_way(stock):
    before = tasks.A2C2f
    (finding,) = doctor.registration(True)
    assert finding.level == "warning" and "yolov12_plugin.register()" in finding.remedy
    assert doctor.registration(False) == []
    assert tasks.A2C2f is before and not registry.is_registered()
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(tasks, "yaml_model_load")
        (finding,) = doctor.registration(True)
        assert finding.level == "error" and "has no ultralytics.nn.tasks.yaml_model_load" in finding.what
        assert registry.TESTED[1] in finding.remedy and tasks.A2C2f is before
        patch.setenv("YOLO12_PLUGIN", "off")
        assert doctor.registration(True) == []  # `settings` tells


@pytest.mark.process
def test_another_package_that_came_after(monkeypatch):
    monkeypatch.setattr(tasks, "A2C2f", torch.nn.Identity)
    report = doctor.report()
    assert [r["attribute"] for r in report["patches"] if not r["in_place"]] == ["ultralytics.nn.tasks.A2C2f"]
    assert not report["registered"] and tasks.A2C2f is torch.nn.Identity
    (what,) = [what for what in said(report, "warning") if "replaced" in what]
    assert "ultralytics.nn.tasks.A2C2f" in what and "torch.nn.modules.linear.Identity" in what


@pytest.mark.parametrize("value, level", [("off", "warning"), ("No", "warning"), ("1", "ok"), ("on", "ok")])
def test_switched_by_the_environment(monkeypatch, value, level):
    monkeypatch.setenv("YOLO12_PLUGIN", value)
    (finding,) = doctor.settings()
    assert finding.level == level and f"YOLO12_PLUGIN={value}" in finding.what
    assert finding.remedy == ("unset YOLO12_PLUGIN" if level == "warning" else "")


# Releases


@pytest.mark.parametrize(
    "version, level, part",
    [
        ("8.3.199", "error", "older"),
        ("8.2.0", "error", "older"),
        ("8.3.63", "error", "authors' fork"),
        ("8.3.200rc1", "error", "older"),
        ("8.3.200", "ok", "the tests have passed on it"),
        ("8.3.200+local", "ok", "the tests have passed on it"),
        ("8.3.241", "ok", "between 8.3.200 and 8.4.190"),
        ("8.4.0", "ok", "between"),
        ("8.4.190rc1", "ok", "between"),
        ("8.4.190", "ok", "the tests have passed on it"),
        ("8.4.190.post1", "note", "newer"),
        ("8.4.191.dev0", "note", "newer"),
        ("8.4.1000", "note", "newer than 8.4.190"),
        ("9.0", "note", "newer"),
        ("main", "note", "no release"),
        ("", "note", "no release"),
    ],
)
def test_tested_releases(monkeypatch, version, level, part):
    monkeypatch.setattr(registry, "TESTED", ("8.3.200", "8.4.190"))
    (finding,) = doctor.ultralytics_release(version)
    assert finding.level == level and version in finding.what and part in finding.what
    remedy = {"error": 'pip install --upgrade "ultralytics>=8.3.200"', "ok": ""}
    assert finding.remedy == remedy.get(level, 'if something fails: pip install "ultralytics==8.4.190"')


def test_tested_releases_are_those_of_the_project():
    oldest, newest = registry.TESTED
    assert f'"ultralytics>={oldest}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("## Compatibility") :].split("\n## ")[0]
    assert {oldest, newest} <= set(re.findall(r"\d+\.\d+\.\d+", section))
    (here,) = doctor.ultralytics_release(ultralytics.__version__)
    assert here.level in ("ok", "note"), here  # CI installs what is newest


def test_no_ultralytics():
    assert doctor.ultralytics_release(None) == []  # `imports` tells


def plugin(monkeypatch, *requires, python=">=3.10"):
    about = SimpleNamespace(metadata={"Requires-Python": python}, requires=list(requires))
    real = doctor.metadata.distribution
    monkeypatch.setattr(doctor.metadata, "distribution", lambda name: about if name == "yolov12-plugin" else real(name))


@pytest.mark.parametrize(
    "versions, level, remedy",
    [
        ({"torch": "2.0.1+cu118"}, "error", 'pip install --upgrade "torch>=2.1"'),
        ({"torch": "2.1.0rc1"}, "error", 'pip install --upgrade "torch>=2.1"'),
        ({"torch": "2.15.0.dev20260101+cpu"}, "ok", ""),
        ({"torch": "2.1.0"}, "ok", ""),
        ({"torch": "git-abc"}, "note", 'if something fails: pip install --upgrade "torch>=2.1"'),
        ({"torch": "2.4", "onnx": "1.15.0"}, "warning", 'pip install --upgrade "onnx>=1.16"'),
        ({"torch": "2.4", "onnx": None}, "ok", ""),
        ({"torch": None}, "ok", ""),  # `imports` tells
    ],
)
def test_requirements(monkeypatch, versions, level, remedy):
    extras = ('onnx>=1.16; extra == "export"', 'onnx>=1.16; extra == "tensorrt-rtx"', 'pytest>=99; extra == "dev"')
    plugin(monkeypatch, "torch>=2.1", "ultralytics>=99", *extras)
    (finding,) = doctor.requirements({"onnx": None, **versions})
    assert (finding.level, finding.remedy) == (level, remedy)


def test_requirements_of_python_and_what_is_missing(monkeypatch):
    plugin(monkeypatch, "Not_There>=1.0", python=">=99")
    python, missing = doctor.requirements({"torch": "2.4"})
    assert python.level == "error" and ">=99" in python.remedy
    assert missing == ("warning", "not-there is not installed", 'pip install --upgrade "Not_There>=1.0"')
    monkeypatch.undo()
    real = doctor.metadata.distribution("yolov12-plugin").requires
    assert any(re.match(r"torch\s*>=\s*2\.1", line) for line in real)


def test_a_checkout_that_is_not_installed(monkeypatch):
    def distribution(name):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "distribution", distribution)
    assert doctor.requirements({"torch": "1.0"}) == []


# Another Ultralytics, own files


@pytest.mark.parametrize(
    "version, part", [("8.3.63", "8.3.63 (that of the authors' fork)"), ("8.4.1", "8.4.1"), (None, "")]
)
def test_a_folder_that_shadows_ultralytics(monkeypatch, tmp_path, version, part):
    monkeypatch.chdir(tmp_path)
    assert doctor.other_ultralytics() == []
    (tmp_path / "ultralytics").mkdir()
    (tmp_path / "ultralytics/__init__.py").write_text(f'__version__ = "{version}"\n' if version else "")
    (finding,) = doctor.other_ultralytics()
    assert finding.level == "warning" and finding.remedy
    assert f"./ultralytics {part}".strip() in finding.what


def test_ultralytics_from_another_folder_than_the_installed(monkeypatch, tmp_path):
    fork = tmp_path / "fork/ultralytics/__init__.py"
    fork.parent.mkdir(parents=True)
    fork.write_text("__version__ = '8.3.63'")
    real = ultralytics.__file__
    monkeypatch.setattr(ultralytics, "__file__", str(fork))
    (finding,) = doctor.other_ultralytics()
    assert finding.level == "warning" and "authors' fork" in finding.what
    assert str(fork.parent) in finding.what and str(Path(real).parent) in finding.what
    monkeypatch.chdir(fork.parent.parent)
    assert len(doctor.other_ultralytics()) == 1  # the folder here is the one that is imported


def test_own_yaml_files(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    used = ["shapes.yaml", "yolov12.yaml", "yolov12n-coco.yaml", "yolov12s-seg.yaml", "yolov12x.yaml"]
    for name in [*used, "mine.yaml", "yolov12q.yaml", "yolo12n.yaml", "yolov12n.yml"]:
        (tmp_path / name).write_text("nc: 1")
    (tmp_path / "yolov12-turbo.yaml").mkdir()
    notes = doctor.own_files()
    assert [note.what.split()[0] for note in notes] == used
    assert all(note.level == "note" and note.remedy for note in notes)
    monkeypatch.chdir(ROOT / "cfg/models")
    assert doctor.own_files() == []


# Settings


@pytest.mark.parametrize(
    "name, value, part",
    [
        ("YOLO12_PLUGIN", "of", "did you mean off?"),
        ("YOLO12_GUARD", "ture", "did you mean true?"),
        ("YOLO12_BENCH", "maybe", "values are off, 0, false, no, on, 1, true, yes"),
        ("YOLO12_WEIGHTS_URL", "/data/weights", "https://"),
        ("YOLO12_WEIGHTS_URL", "https://", "https://"),
        ("YOLO12_WEIGHTS_URL", " mirror ", "unset YOLO12_WEIGHTS_URL"),
        ("YOLO12_ATTENTON", "math", "did you mean YOLO12_ATTENTION?"),
    ],
)
def test_unknown_settings(monkeypatch, name, value, part):
    monkeypatch.setenv(name, value)
    (finding,) = doctor.settings()
    assert finding.level == "warning" and name in finding.what and part in finding.remedy


@pytest.mark.parametrize(
    "name, value",
    [
        *((name, value) for name in doctor.SETTINGS for value in ("", "  ")),
        ("YOLO12_ATTENTION", "flsh"),
    ],
)
def test_settings_that_are_not_judged_here(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert doctor.settings() == []


@pytest.mark.parametrize("name, value", [("YOLO12_GUARD", " ON "), ("YOLO12_WEIGHTS_URL", " https://mirror.org/A ")])
def test_blanks_and_case_are_ignored(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    (finding,) = doctor.settings()
    assert finding.level == "ok" and f"{name}={value.strip()}:" in finding.what


@pytest.mark.parametrize("value", ["off", " OFF", "No ", "\tfalse"])
def test_what_is_off_is_off_to_the_doctor_too(monkeypatch, value):
    monkeypatch.setenv("YOLO12_PLUGIN", value)
    (finding,) = doctor.settings()
    assert finding.level == "warning" and finding.what.endswith("the plugin is off")


@pytest.mark.process
def test_empty_is_unset(monkeypatch):
    for name in doctor.SETTINGS:
        monkeypatch.setenv(name, " ")
    assert set(doctor.report()["settings"].values()) == {None}


@pytest.mark.process
def test_passwords_are_not_told(monkeypatch):
    monkeypatch.setenv("YOLO12_WEIGHTS_URL", "https://me:secret@mirror.org/yolov12")
    report = doctor.report()
    assert report["settings"]["YOLO12_WEIGHTS_URL"] == "https://***@mirror.org/yolov12"
    assert "secret" not in json.dumps(report) and any("mirror.org" in what for what in said(report, "ok"))


# Attention


@pytest.mark.parametrize("selected, near", [("flsh", "flash"), ("SPDA", "sdpa"), ("mat", "math")])
def test_unknown_backend(monkeypatch, selected, near):
    monkeypatch.setattr(attention.attention_backend, "default", selected)
    monkeypatch.setattr(attention.attention_backend, "chosen", [])
    (finding,) = doctor.attention_backends(doctor.attention_rows(**{"device": "cpu", "name": ""}), [CPU])
    assert finding.level == "warning" and f"YOLO12_ATTENTION={selected} is unknown" in finding.what
    assert near in finding.remedy and "did you mean" in finding.remedy


def test_selected_backend_that_fails(monkeypatch):
    monkeypatch.setattr(attention.attention_backend, "default", "flash")
    monkeypatch.setattr(attention.attention_backend, "chosen", [])
    (finding,) = doctor.attention_backends(doctor.attention_rows("cpu", ""), [CPU])
    assert finding.level == "warning" and "not installed" in finding.what and "auto" in finding.remedy


def rows(device, **why):
    return [
        {"device": device, "dtype": dtype, "backend": "flash" if text in ("FlashAttention-2",) else "sdpa", "why": text}
        for dtype, text in why.items()
    ]


FAILS = "FlashAttention-2 differs from PyTorch's attention by 30%, more than 3%"


@pytest.mark.parametrize(
    "capability, why, warned",
    [
        ("8.6", FAILS, True),
        ("7.5", "FlashAttention-2 is not made for compute capability 7.5", False),
        ("8.6", "FlashAttention-2", False),
        ("8.6", "flash-attn is not installed", False),
        ("8.6", f"FlashAttention-3 is not made for compute capability 8.6; {FAILS}", True),
    ],
)
def test_flash_attention_that_is_left_aside(capability, why, warned):
    devices = [
        CPU,
        {"device": "cuda:0", "compute_capability": "9.0"},
        {"device": "cuda:1", "compute_capability": capability},
    ]
    table = rows("cpu", float16="flash-attn needs an NVIDIA GPU, not cpu") + rows("cuda:0", float16="FlashAttention-2")
    found = doctor.attention_backends([*table, *rows("cuda:1", float16=why)], devices)
    warnings = [finding for finding in found if finding.level == "warning"]
    assert [why in finding.what and "cuda:1" in finding.what for finding in warnings] == [True] * warned


# Optional packages


def by_name(name):
    return next(package for package in doctor.PACKAGES if package.name == name)


def test_commands_are_those_of_the_project():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(
        r"^([a-z-]+) = \[", text.split("[project.optional-dependencies]")[1].split("\n[")[0], re.MULTILINE
    )
    for package in doctor.PACKAGES:
        assert package.install.startswith("pip install ") and package.purpose
        for extra in re.findall(r"yolov12-plugin\[(.+?)\]", package.install):
            section = re.search(rf"^{extra} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
            assert extra in extras and f'"{package.name}' in section[1]
    assert doctor.EXPORT == runtimes.EXPORT and by_name("tensorrt").install == tensorrt.HINT
    flash = {package.purpose for package in doctor.PACKAGES if package.purpose.startswith("FlashAttention")}
    assert flash == {flash.name for flash in attention.FLASH}


@pytest.mark.parametrize(
    "name, majors, of_use",
    [
        ("flash-attn", set(), False),
        ("flash-attn", {7}, False),
        ("flash-attn", {7, 8}, True),
        ("flash-attn-3", {8}, False),
        ("flash-attn-3", {9}, True),
        ("flash-attn-4", {10}, True),
        ("tensorrt", set(), False),
        ("tensorrt", {7}, True),
        ("onnx", set(), True),
        ("tensorrt-rtx-cu13", set(), True),
    ],
)
def test_not_installed(name, majors, of_use):
    package = by_name(name)
    (finding,) = doctor.optional_package(package, None, majors)
    assert finding.level == "note" and package.purpose in finding.what
    assert finding.remedy == (package.install if of_use else "")
    assert ("no GPU here" in finding.what) != of_use


def test_versions_and_installations_in_part(monkeypatch, tmp_path):
    package = doctor.Package("not-there", "nothing", "pip install not-there", "not_there", ("not-there-gpu",))
    monkeypatch.setattr(doctor, "PACKAGES", (package,))
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor.installed()["not-there"] is None
    (tmp_path / "not_there_gpu-1.2.dist-info").mkdir()
    (tmp_path / "not_there_gpu-1.2.dist-info/METADATA").write_text("Name: not-there-gpu\nVersion: 1.2\n")
    assert doctor.installed()["not-there"] == "1.2"
    (finding,) = doctor.optional_package(package, "1.2", set())
    assert finding.level == "warning" and "no module not_there" in finding.what
    assert finding.remedy == "pip install --force-reinstall not-there"
    (tmp_path / "not_there.py").write_text("raise SystemExit('imported')")
    assert doctor.optional_package(package, "1.2", set()) == [("ok", "not-there 1.2: nothing", "")]
    (tmp_path / "not_there_gpu-1.2.dist-info/METADATA").write_bytes(b"Name: \xff")
    assert doctor.installed()["not-there"] == "unknown"
    (tmp_path / "not_there_gpu-1.2.dist-info/METADATA").unlink()
    assert doctor.installed()["not-there"] == "unknown"
    (tmp_path / "not_there_gpu-1.2.dist-info").rmdir()
    assert doctor.installed()["not-there"] == "unknown"  # the module alone


@pytest.mark.parametrize(
    "body, level, part",
    [
        ("raise ImportError('libnvinfer.so.10: cannot open shared object file')", "warning", "libnvinfer.so.10"),
        ("raise OSError('nvinfer.dll: no such file')", "warning", "nvinfer.dll"),
        ("__version__ = '8.5.3'", "warning", "older than 8.6"),
        ("__version__ = '10.16.0'", "note", "no CUDA device"),
    ],
)
def test_tensorrt_that_does_not_run(monkeypatch, tmp_path, body, level, part):
    (tmp_path / "tensorrt.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (finding,) = doctor.optional_package(by_name("tensorrt"), "10.1", set())
    sys.modules.pop("tensorrt", None)
    assert finding.level == level and part in finding.what and finding.what.startswith("tensorrt 10.1: ")
    assert (finding.remedy == tensorrt.HINT) == (level == "warning") and tensorrt.HINT not in finding.what


# What is broken


@pytest.mark.parametrize(
    "hidden, what",
    [
        ("torch", "torch is not installed"),
        ("torchvision", "torchvision is not installed"),
        ("cv2", f"ultralytics {ultralytics.__version__} cannot be imported: ModuleNotFoundError"),
    ],
)
def test_imports_that_fail(run, hidden, what):
    code = f"import sys; sys.modules['{hidden}'] = None\nfrom yolov12_plugin.cli import app; app()"
    done = run([sys.executable, "-c", code, "doctor", "--json"], check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    report = json.loads(done.stdout)
    (error,) = said(report, "error")
    assert error.startswith(what) and not report["attention"]
    assert report["versions"]["ultralytics"] == ultralytics.__version__ and report["versions"]["torch"]
    assert any(what.startswith("onnx ") for what in said(report))


def test_a_library_that_opencv_lacks(monkeypatch):
    def import_module(name):
        raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(doctor.importlib, "import_module", import_module)
    monkeypatch.setattr(doctor, "IMPORTED", {"ultralytics.nn.tasks": "reinstall"})
    (finding,) = doctor.imports().values()
    assert finding.level == "error" and "libGL.so.1" in finding.what and "opencv-python-headless" in finding.remedy


BROKEN = {
    "no devices": (torch.cuda, "device_count", "visible devices"),
    "another cuDNN": (torch.backends.cudnn, "version", "cudnn"),
    "no memory": (doctor, "about_device", "<lambda>"),
    "no table": (doctor, "attention_rows", "<lambda>"),
    "no folder": (doctor, "own_files", "<lambda>"),
}


@pytest.mark.process
@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_asked_is_a_finding(monkeypatch, case):
    owner, name, probe = BROKEN[case]

    def fail(*args):
        raise RuntimeError("CUDA error: unknown error\nCUDA kernel errors might be asynchronously reported")

    fail.__name__ = probe.replace(" ", "_")
    monkeypatch.setattr(owner, name, fail)
    report = doctor.report()
    assert report["registered"] and report["versions"]["torch"]
    (finding,) = [row for row in report["findings"] if "CUDA error" in row["what"]]
    assert finding["level"] == "warning" and finding["what"] == f"{probe}: RuntimeError: CUDA error: unknown error"


@pytest.mark.parametrize("error", [RuntimeError, AttributeError, NotImplementedError])
def test_torchvision_of_another_torch(monkeypatch, error):
    assert doctor.suppression("cpu")[0].level == "ok"

    def nms(*args):
        raise error("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", nms)
    (finding,) = doctor.suppression("cpu")
    assert finding.level == "error" and torch.__version__ in finding.what and torchvision.__version__ in finding.what
    assert "does not exist" in finding.what and "torch torchvision" in finding.remedy


@pytest.mark.parametrize("number, version", [(92400, "9.24.0"), (90100, "9.1.0"), (8902, "8.9.2"), (None, None)])
def test_version_of_cudnn(monkeypatch, number, version):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: number)
    assert doctor.cudnn() == version


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
@pytest.mark.parametrize(
    "cuda, visible, status, level, part",
    [
        (None, None, 0, "warning", "pytorch.org"),
        ("13.0", None, 0, "warning", "driver for CUDA 13.0"),
        ("13.0", "", 0, "note", "unset"),
        ("13.0", None, 9, None, ""),
    ],
)
def test_gpus_that_pytorch_does_not_see(monkeypatch, tmp_path, cuda, visible, status, level, part):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\necho 'GPU 0: Tesla T4 (UUID: GPU-1)'\nexit {status}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = doctor.unseen_gpus()
    assert [(finding.level, part in finding.remedy) for finding in found] == ([(level, True)] if level else [])
