"""benchmarks/tasks.py: what counts as a collapse, and models that differ in the residual alone."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from yolov12_plugin.deploy.verify import load
from yolov12_plugin.nn.modules import A2C2f
from yolov12_plugin.show.convergence import Run

sys.path.insert(0, str(ROOT / "benchmarks"))
tasks = pytest.importorskip("tasks")


@pytest.mark.parametrize(
    ("values", "loss", "learned", "collapsed"),
    [
        ([0.1, 0.5, 0.6, 0.58], 2.0, True, False),
        ([0.1, 0.5, 0.6, 0.2], 2.0, True, True),
        ([0.1, 0.5, 0.6, np.nan], 2.0, True, True),
        ([0.1, 0.5, 0.6, 0.58], np.nan, True, True),
        ([0.0, 0.0, 0.01, 0.0], 2.0, False, False),
        ([0.0, 0.0, 0.0, 0.0], np.inf, False, True),
    ],
)
def test_collapse(values, loss, learned, collapsed):
    columns = {"epoch": np.arange(1, 5), "metric": np.array(values), "train/box_loss": np.array([3.0, 2.5, loss, 2.0])}
    row = tasks.row(Run("run", Path("results.csv"), columns, 0), 1.0, 0, "metric")
    assert (row["learned"], row["collapsed"]) == (learned, collapsed)


def test_guessing_is_not_learning():
    columns = {
        "epoch": np.arange(1, 4),
        "metrics/accuracy_top1": np.array([0.25, 0.38, 0.31]),
        "train/loss": np.ones(3),
    }
    row = tasks.row(Run("run", Path("results.csv"), columns, 0), 1.0, 0, "metrics/accuracy_top1")
    assert (row["learned"], row["collapsed"]) == (False, False)


@pytest.mark.parametrize("task", tasks.TASKS)
def test_models_differ_in_the_residual_alone(task, tmp_path):
    model, *_ = tasks.TASKS[task]
    without, with_it = (load(tasks.with_residual(model, residual, tmp_path)).model for residual in ("none", "0.01"))
    blocks = sum(len(m.m) for m in with_it.modules() if isinstance(m, A2C2f) and m.gamma is not None)
    assert blocks and all(m.gamma is None for m in without.modules() if isinstance(m, A2C2f))
    names = {name for name, _ in with_it.named_parameters()} ^ {name for name, _ in without.named_parameters()}
    assert names and all(name.endswith("gamma") for name in names)
