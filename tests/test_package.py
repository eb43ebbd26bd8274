"""The wheel and the editable install, each in a virtual environment of its own, and their removal."""

import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.process


def pip(python, *args):
    command = [sys.executable, "-m", "pip", "--python", python, *args, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the files of the project, so that nothing is built inside the checkout."""
    folder = tmp_path_factory.mktemp("checkout") / "yolov12-plugin"
    ignore = shutil.ignore_patterns(".*", "__pycache__", "tests", "benchmarks")
    return Path(shutil.copytree(ROOT, folder, ignore=ignore))


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", checkout, "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    return next(folder.glob("*.whl"))


@pytest.fixture
def environment(tmp_path):
    """A virtual environment that sees this one's packages, but runs none of its .pth files."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    packages = Path(subprocess.run([python, "-c", "import site; print(site.getsitepackages()[0])"],
                                   capture_output=True, text=True, check=True).stdout.strip())  # fmt: skip
    (packages / "outer.pth").write_text("\n".join(site.getsitepackages()))
    return python, packages


def test_wheel_contents(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"yolov12_plugin.pth", "yolov12_plugin.start", "yolov12_plugin/autoload.py"} <= names
    assert {"yolov12_plugin/__init__.pyi", "yolov12_plugin/py.typed"} <= names
    assert {f"yolov12_plugin/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "cfg").rglob("*.yaml")} <= names
    assert {"yolov12_plugin/paper/figure3.png", "yolov12_plugin/paper/figure3.svg"} <= names
    roots = {name.split("/")[0] for name in names}
    assert roots == {
        "yolov12_plugin",
        "yolov12_plugin.pth",
        "yolov12_plugin.start",
        "-".join(wheel.name.split("-")[:2]) + ".dist-info",
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_start_file_names_a_callable(wheel):
    """Python 3.15 calls this instead of running the .pth file (PEP 829)."""
    import pkgutil

    line = zipfile.ZipFile(wheel).read("yolov12_plugin.start").decode().strip()
    assert callable(pkgutil.resolve_name(line))


BUILD = (
    "from ultralytics import YOLO; YOLO('yolov12n.yaml', verbose=False); YOLO('yolov12x-turbo.yaml', verbose=False)\n"
    "from ultralytics.utils.checks import check_yaml; check_yaml('yolov12n-coco.yaml'); check_yaml('shapes.yaml')\n"
    "import yolov12_plugin; print(yolov12_plugin.__file__)"
)


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_install_use_and_uninstall(run, tmp_path, environment, wheel, checkout, kind):
    python, packages = environment
    before = sorted(packages.iterdir())
    source = [wheel] if kind == "wheel" else ["--editable", checkout]
    pip(python, "install", "--no-deps", "--no-build-isolation", "--ignore-installed", *source)
    where = Path(run(BUILD, python=python).stdout.splitlines()[-1])
    assert (packages if kind == "wheel" else checkout) in where.parents
    started = run("import sys; print([m for m in sys.modules if m.startswith('yolov12')])", python=python).stdout
    assert "yolov12_plugin.autoload" in started

    pip(python, "uninstall", "--yes", "yolov12-plugin")
    assert sorted(packages.iterdir()) == before
    gone = run("from ultralytics import YOLO; YOLO('yolov12n.yaml')", python=python, check=False)
    assert "FileNotFoundError" in gone.stderr and "yolov12_plugin" not in gone.stderr


def test_editable_checkout_that_was_deleted_is_silent(run, environment, checkout, tmp_path):
    python, _ = environment
    moved = shutil.copytree(checkout, tmp_path / "moved")
    pip(python, "install", "--no-deps", "--no-build-isolation", "--ignore-installed", "--editable", moved)
    shutil.rmtree(moved)
    assert run("pass", python=python).stderr == ""
