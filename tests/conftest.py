import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# Ultralytics reads these when it is first imported; children inherit them.
CONFIG = tempfile.mkdtemp(prefix="yolov12-tests-")
os.environ.update(
    YOLO_AUTOINSTALL="false",
    YOLO_OFFLINE="true",
    YOLO_CONFIG_DIR=CONFIG,
    CUDA_VISIBLE_DEVICES="",
    WANDB_MODE="disabled",
)
os.environ.pop("YOLO12_PLUGIN", None)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def settings(tmp_path_factory):
    """Datasets, weights and runs of the tests stay in a folder of the session's own."""
    from ultralytics.utils import SETTINGS

    home = tmp_path_factory.mktemp("ultralytics")
    SETTINGS.update({f"{kind}_dir": str(home / kind) for kind in ("datasets", "weights", "runs")})
    SETTINGS.update({"sync": False})


@pytest.fixture(scope="session", autouse=True)
def threads():
    import torch

    torch.set_num_threads(1)  # the workers of pytest-xdist share the cores


@pytest.fixture
def run(tmp_path):
    """Run Python code, or a command given as a list, in a process of its own from an empty folder."""

    def run(code, *, check=True, cwd=tmp_path, python=sys.executable, **env):
        command = [python, "-c", code] if isinstance(code, str) else [str(part) for part in code]
        done = subprocess.run(
            command, cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=600, check=False
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


def yolov12(*command):
    """The `yolov12` command in this process, whose environment stays as it is."""
    from typer.testing import CliRunner

    from yolov12_plugin.cli import app

    return CliRunner(env={"YOLO_VERBOSE": "false"}).invoke(app, [str(part) for part in command])


@pytest.fixture
def stock():
    """Ultralytics as it is without the plugin, inside one test."""
    import yolov12_plugin as y12

    y12.unregister()
    yield
    assert y12.register()


@pytest.fixture
def overlay(tmp_path):
    """A copy of Ultralytics in a folder that comes first on the path."""
    import ultralytics

    folder = tmp_path / "overlay"
    package = Path(ultralytics.__file__).parent
    shutil.copytree(package, folder / "ultralytics", ignore=shutil.ignore_patterns("__pycache__", "assets"))
    return folder
