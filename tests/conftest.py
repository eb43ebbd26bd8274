import functools
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import forked
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
SHARED = ROOT.parent / "shared"  # the paper, and the authors' outputs, which are not the project's to give away
NOT_HERE = "needs files that lie beside the checkout, in ../shared"


@pytest.fixture(scope="session", autouse=True)
def settings(tmp_path_factory):
    """Datasets, weights and runs of the tests stay in a folder of the session's own."""
    from ultralytics.data import utils
    from ultralytics.utils import SETTINGS

    home = tmp_path_factory.mktemp("ultralytics")
    SETTINGS.update({f"{kind}_dir": str(home / kind) for kind in ("datasets", "weights", "runs")})
    SETTINGS.update({"sync": False})
    utils.DATASETS_DIR = home / "datasets"  # read from the settings at import: a folder beside the checkout, or within


@pytest.fixture(scope="session", autouse=True)
def threads():
    import torch

    torch.set_num_threads(1)  # the workers of pytest-xdist share the cores


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """What a test writes into the environment, as commands do in this process, does not reach the tests after it."""
    before = dict(os.environ)
    try:
        return (yield)
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def run(tmp_path):
    """Run Python code, or a command given as a list, in a process of its own from an empty folder."""

    return functools.partial(in_a_process, forked.start, cwd=tmp_path)


@pytest.fixture
def fork(tmp_path):
    """As `run`, where the start of the process is not what is tried: much the quicker one."""
    return functools.partial(in_a_process, forked.run, cwd=tmp_path)


def in_a_process(runs, code, *, cwd, check=True, python=sys.executable, **env):
    command = [python, "-c", code] if isinstance(code, str) else [str(part) for part in code]
    done = runs(command, cwd=cwd, env=os.environ | env, timeout=600)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def yolov12(*command):
    """The `yolov12` command in this process, whose environment stays as it is."""
    from typer.testing import CliRunner

    from yolov12_plugin.cli import app

    return CliRunner(env={"YOLO_VERBOSE": "false"}).invoke(app, [str(part) for part in command])


@pytest.fixture
def interruptible():
    """SIGINT as at a terminal: a shell's background process ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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


def has_end2end():
    """Whether a YAML's end2end is heard: since Ultralytics 8.4."""
    from inspect import signature

    from ultralytics.nn.modules.head import Detect

    return "end2end" in signature(Detect).parameters


def needs(*paths):
    """Skip a test where files of SHARED are not here."""
    return pytest.mark.skipif(not all((SHARED / path).exists() for path in paths), reason=NOT_HERE)


def pytest_terminal_summary(terminalreporter):
    """One line says how many tests were skipped for want of SHARED."""
    for report in terminalreporter.stats.get("skipped", ()):
        if NOT_HERE in str(report.longrepr):
            report.longrepr = ("tests", None, f"Skipped: {NOT_HERE}")


# What a test does that the quick part leaves out, and the calls that show it.
DOES = {
    "export": ("ultralytics.engine.exporter:Exporter.__call__",),
    "train": ("ultralytics.engine.trainer:BaseTrainer.train",),
    "process": ("subprocess:Popen.__init__",),
    "compile": ("torch:compile",),
}
of_quick = {}  # the test that runs, without one of these markers


def pytest_collection_modifyitems(items):
    for item in items:
        if {"run", "fork"} & set(item.fixturenames):
            item.add_marker("process")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    of_quick.clear()
    if not any(item.get_closest_marker(name) for name in (*DOES, "slow")):
        of_quick["test"] = item.nodeid


@pytest.fixture(scope="session", autouse=True)
def marked():
    """An unmarked test that exports, trains, compiles, or starts a Python process fails: the quick part stays quick."""
    with pytest.MonkeyPatch.context() as patch:
        for name, calls in DOES.items():
            for call in calls:
                owner, _, attribute = call.replace(":", ".").rpartition(".")
                patch.setattr(f"{owner}.{attribute}", watched(name, pkgutil.resolve_name(call)))
        yield


def watched(name, call):
    @functools.wraps(call)
    def wrapper(*args, **kwargs):
        if of_quick and (name != "process" or "python" in str(args[1])):
            pytest.fail(f"{of_quick['test']} does what tests marked {name} do: mark it")
        return call(*args, **kwargs)

    return wrapper
