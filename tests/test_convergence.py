"""Curves of several runs on one sheet."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, yolov12
from matplotlib.colors import to_hex

from yolov12_plugin.errors import RunError
from yolov12_plugin.show.convergence import read_runs, sheet, write

DETECT = [
    *("train/box_loss", "train/cls_loss", "train/dfl_loss"),
    *(f"metrics/{name}(B)" for name in ("precision", "recall", "mAP50", "mAP50-95")),
    *("val/box_loss", "val/cls_loss", "val/dfl_loss", "lr/pg0", "lr/pg1", "lr/pg2"),
]
SEGMENT = [
    *("train/box_loss", "train/seg_loss", "metrics/mAP50(B)", "metrics/mAP50-95(B)"),
    *("metrics/mAP50(M)", "metrics/mAP50-95(M)", "val/box_loss", "val/seg_loss", "lr/pg0"),
]
CLASSIFY = ["train/loss", "metrics/accuracy_top1", "metrics/accuracy_top5", "val/loss", "lr/pg0"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(columns=DETECT, epochs=3, **values):
    """Lines of a results.csv; `values` has by epoch, as e2, what each of its columns holds."""
    rows = [["epoch", "time", *columns]]
    for e in range(1, epochs + 1):
        rows.append([e, 9 * e, *(values.get(f"e{e}", e + i / 100) for i in range(len(columns)))])
    return [",".join(map(str, row)) for row in rows]


def save(path, lines):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def curves(runs):
    """Lines by panel."""
    return {ax.get_title(): ax.lines for ax in sheet(runs).axes}


def labels(fig):
    return [text.get_text() for text in fig.legends[0].get_texts()]


@pytest.mark.parametrize(
    "columns, titles",
    [
        (DETECT, ["box_loss", "cls_loss", "dfl_loss", "mAP50(B)", "mAP50-95(B)", "lr/pg0"]),
        (SEGMENT, ["box_loss", "seg_loss", "mAP50(B)", "mAP50-95(B)", "mAP50(M)", "mAP50-95(M)", "lr/pg0"]),
        (CLASSIFY, ["loss", "accuracy_top1", "accuracy_top5", "lr/pg0"]),
        (["train/loss"], ["loss"]),
    ],
)
def test_panels(folder, columns, titles):
    save("a/results.csv", table(columns))
    fig = sheet(read_runs(["a"]))
    assert [ax.get_title() for ax in fig.axes] == titles
    for ax in fig.axes:
        assert [line.get_linestyle() for line in ax.lines] in (["-"], ["-", "--"])
        assert len(ax.lines) == sum(key.endswith(f"/{ax.get_title()}") or key == ax.get_title() for key in columns)
    assert labels(fig) == (["a"] if len(columns) == 1 else ["a", "solid: training", "dashed: validation"])


def test_curves(folder):
    """Each run in its colour in all panels, as long as it is, and only in the panels that it has columns for."""
    save("a/results.csv", table(epochs=5))
    save("b/results.csv", table(CLASSIFY, epochs=2))
    a, b = runs = read_runs(["a", "b"])
    panels = curves(runs)
    of_a = {"box_loss": 2, "cls_loss": 2, "dfl_loss": 2, "mAP50(B)": 1, "mAP50-95(B)": 1, "lr/pg0": 1}
    of_b = {"loss": 2, "accuracy_top1": 1, "accuracy_top5": 1, "lr/pg0": 1}
    drawn = {title: [(len(line.get_xdata()), to_hex(line.get_color())) for line in panels[title]] for title in panels}
    assert drawn == {
        title: [(5, "#1f77b4")] * of_a.get(title, 0) + [(2, "#ff7f0e")] * of_b.get(title, 0) for title in panels
    }
    assert set(panels) == set(of_a) | set(of_b)
    train, val = panels["box_loss"]
    assert train.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert train.get_ydata().tolist() == a.columns["train/box_loss"].tolist() == [1, 2, 3, 4, 5]
    assert val.get_ydata().tolist() == a.columns["val/box_loss"].tolist() == [1.07, 2.07, 3.07, 4.07, 5.07]
    assert panels["accuracy_top1"][0].get_ydata().tolist() == b.columns["metrics/accuracy_top1"].tolist()


def test_no_margin_below_what_is_never_negative(folder):
    save("nothing/results.csv", ["epoch,time,metrics/mAP50(B)", "1,9,0.0", "2,18,0.0"])
    [ax] = sheet(read_runs(["nothing"])).axes
    assert ax.get_ylim() == (0, 1)


def test_a_run_of_any_name_has_a_label_of_its_own(folder):
    for name in "train", "validation":
        save(f"{name}/results.csv", table())
    found = labels(sheet(read_runs(["train", "validation"])))
    assert len(set(found)) == len(found) == 4


def test_more_runs_than_colours_of_the_usual_palette(folder):
    names = [f"run{i}" for i in range(14)]
    for name in names:
        save(f"{name}/results.csv", table())
    fig = sheet(read_runs(names))
    assert labels(fig) == [*names, "solid: training", "dashed: validation"]
    assert len({line.get_color() for line in fig.axes[-1].lines}) == 14


PADDED = [",".join(f"{key:>23}" for key in line.split(",")) for line in table()]
RESUMED = [*table(epochs=5)[:5], *table(epochs=3, e3=7)[3:]]  # epochs 1 2 3 4 3: the second 4 is still to come


@pytest.mark.parametrize(
    "text, epochs, last, torn",
    [
        ("\n".join(table()) + "\n", [1, 2, 3], 3, 0),
        ("\n".join(PADDED) + "\n", [1, 2, 3], 3, 0),
        ("\ufeff" + "\r\n".join(table()) + "\r\n", [1, 2, 3], 3, 0),
        ("\n".join(RESUMED) + "\n", [1, 2, 3], 7, 0),
        ("\n".join(table())[:-40], [1, 2], 2, 1),
        ("\n".join(table()) + "\n4,", [1, 2, 3], 3, 1),
        ("\n".join([*table()[:3], table()[2][:20] + table(e3=7)[3], *table(epochs=4)[4:]]), [1, 2, 4], 4, 1),
        ("\n".join(table()) + "\n4," + ",".join(["1e-"] * (len(DETECT) + 1)), [1, 2, 3], 3, 1),
    ],
    ids=["plain", "padded", "saved by Excel", "resumed", "torn", "torn after a comma", "resumed torn", "torn number"],
)
def test_what_trainings_leave_behind(folder, text, epochs, last, torn):
    Path("a.csv").write_text(text, encoding="utf-8")
    (run,) = read_runs(["a.csv"])
    assert run.epochs.tolist() == epochs
    assert list(run.columns) == ["epoch", "time", *DETECT]
    assert run.columns["train/box_loss"][-1] == last
    assert run.torn == torn and run.title == ("a (torn rows: 1)" if torn else "a")


def test_the_installed_ultralytics_writes_it(folder):
    from ultralytics.engine.trainer import BaseTrainer

    trainer = SimpleNamespace(csv=folder / "results.csv", train_time_start=time.time())
    for trainer.epoch in range(2):
        BaseTrainer.save_metrics(trainer, {key: np.float32(0.25) for key in DETECT} | {"val/box_loss": float("inf")})
    (run,) = read_runs([str(folder)])
    assert run.epochs.tolist() == [1, 2] and run.columns["lr/pg2"].tolist() == [0.25, 0.25]
    assert run.title == f"{folder.name} (not finite from epoch 1)"


@pytest.mark.parametrize(
    "bad, note, drawn, marked",
    [
        ({}, "", [1, 2, 3, 4, 5, 6], []),
        ({"e6": "nan"}, "not finite from epoch 6", [1, 2, 3, 4, 5], []),
        ({"e2": "inf", "e5": "-inf"}, "not finite in 2 of 6 epochs, from epoch 2", [1, 3, 4, 6], [0, 5]),
        ({"e3": ""}, "not finite in 1 of 6 epochs, from epoch 3", [1, 2, 4, 5, 6], []),
        ({f"e{i}": "nan" for i in range(1, 7)}, "not finite from epoch 1", [], []),
    ],
)
def test_gaps(folder, bad, note, drawn, marked):
    """What is not finite interrupts a curve, and the legend says so; a point between two gaps is seen."""
    save("a/results.csv", table(epochs=6, **bad))
    (run,) = runs = read_runs(["a"])
    assert labels(sheet(runs))[0] == run.title == (f"a ({note})" if note else "a")
    for lines in curves(runs).values():
        for line in lines:
            x, y = line.get_data()
            assert x[np.isfinite(y)].tolist() == drawn
            assert line.get_markevery() == marked
    write(runs, folder / "a.png")


def test_one_epoch_is_seen(folder):
    save("a/results.csv", table(epochs=1))
    for lines in curves(read_runs(["a"])).values():
        assert [(line.get_marker(), line.get_markevery()) for line in lines] == [(".", [0])] * len(lines)


@pytest.mark.parametrize(
    "given, names",
    [
        (["x/a", "x/b/results.csv"], ["a", "b"]),
        (["x/a", "y/a"], ["x/a", "y/a"]),
        (["x/a", "x/b", "y/a"], ["x/a", "b", "y/a"]),
        (["ours=x/a", "=y/a"], ["ours", "y/a"]),
        (["x/a", "x/../x/a/results.csv"], ["a"]),
        (["lr=1/a", "lr=0.1=lr=1/b"], ["a", "lr=0.1"]),
        (["kept/one.csv", "kept/two.csv"], ["one", "two"]),
        (["$x$", "_hidden"], ["$x$", "_hidden"]),
    ],
)
def test_names(folder, given, names):
    for path in "x/a", "x/b", "y/a", "lr=1/a", "lr=1/b", "$x$", "_hidden":
        save(f"{path}/results.csv", table())
    for path in "kept/one.csv", "kept/two.csv":
        save(path, table())
    runs = read_runs(given)
    assert [run.name for run in runs] == names
    assert labels(sheet(runs)) == [*names, "solid: training", "dashed: validation"]
    write(runs, folder / "a.png")


@pytest.mark.parametrize(
    "given, says",
    [
        ("nowhere", "nowhere is not there: name the folder of a run, or its results.csv"),
        ("a=nowhere", "nowhere is not there"),
        ("folder", "folder has no results.csv, which Ultralytics writes after the first epoch: name a run's folder"),
        ("empty.csv", "empty.csv is empty: Ultralytics writes it after the first epoch"),
        ("head.csv", "head.csv has no whole row yet: Ultralytics writes one after each epoch"),
        ("other.csv", "other.csv is no results.csv of Ultralytics: it lacks the column epoch"),
        ("epochs.csv", "epochs.csv is no results.csv of Ultralytics: it lacks columns as train/box_loss"),
        ("a.png", "a.png is no results.csv of Ultralytics: it is no text"),
    ],
)
def test_what_is_no_run(folder, given, says):
    Path("folder").mkdir()
    Path("empty.csv").touch()
    save("head.csv", table()[:1])
    save("other.csv", ["model,box_loss", "n,1"])
    save("epochs.csv", ["epoch,time", "1,2"])
    Path("a.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\x00")
    save("good/results.csv", table())
    with pytest.raises(RunError, match=says):
        read_runs(["good", given])
    done = yolov12("paper", "convergence", given)
    assert done.exit_code == 2 and done.stdout == "" and says in done.stderr
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
    assert not Path("convergence.png").exists()
    # Of several, as `runs/detect/train*` gives them, the others are drawn.
    done = yolov12("paper", "convergence", "good", given)
    assert done.exit_code == 0 and done.stdout == "convergence.png\n" and Path("convergence.png").exists()
    assert done.stderr.startswith("left out: ") and says in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind, head", [("png", b"\x89PNG"), ("PNG", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_command(folder, kind, head):
    save("x/results.csv", table())
    done = yolov12("paper", "convergence", "ours=x", "--out", f"a.{kind}")
    assert done.exit_code == 0 and done.stdout == f"a.{kind}\n" and done.stderr == ""
    assert Path(f"a.{kind}").read_bytes().startswith(head)


def test_json(folder):
    save("a/results.csv", table(epochs=4, e3=0.125, e4="nan"))
    save("b/results.csv", table(["train/loss"]))
    done = yolov12("paper", "convergence", "a", "b", "--json")
    assert done.exit_code == 0 and Path("convergence.png").exists()
    found = json.loads(done.stdout)
    assert found["picture"] == "convergence.png"
    metrics = [key for key in DETECT if key.startswith("metrics/")]
    assert found["runs"] == [
        {
            "run": "a",
            "file": str(Path("a/results.csv")),
            "epochs": 4,
            "torn": 0,
            "last": {"epoch": 4} | dict.fromkeys(metrics),
            "best": {"epoch": 2} | {key: 2 + (3 + i) / 100 for i, key in enumerate(metrics)},
        },
        {"run": "b", "file": str(Path("b/results.csv")), "epochs": 3, "torn": 0, "last": {"epoch": 3}, "best": None},
    ]


@pytest.mark.parametrize(
    "columns, best",
    [
        ({"metrics/mAP50(B)": [1, 2, 3], "metrics/mAP50-95(B)": [1, 3, 2]}, 2),
        ({"metrics/mAP50-95(B)": [1, 3, 2], "metrics/mAP50-95(M)": [1, 1, 4]}, 3),
        ({"metrics/accuracy_top1": [1, 2, 3], "metrics/accuracy_top5": [9, 5, 5]}, 1),
        ({"metrics/mIoU": [1, float("nan"), 2]}, 3),
    ],
)
def test_best_is_of_the_task_s_fitness(folder, columns, best):
    save(
        "a.csv",
        [",".join(["epoch", *columns]), *(",".join(map(str, row)) for row in zip((1, 2, 3), *columns.values()))],
    )
    assert read_runs(["a.csv"])[0].summary()["best"]["epoch"] == best


def test_the_caller_s_matplotlib_stays_as_it_is(fork, folder):
    save("a/results.csv", table())
    code = (
        "import sys, matplotlib; from pathlib import Path\n"
        "before = {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != 'backend'}\n"
        "from yolov12_plugin.show.convergence import read_runs, write\n"
        "write(read_runs(['a']), Path('a.svg'))\n"
        "assert before == {key: matplotlib.rcParams[key] for key in before}\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "print(matplotlib.get_backend())"
    )
    assert fork(code, MPLBACKEND="svg").stdout == "svg\n"


def test_kept_training():
    """What benchmarks/training.py kept: at first, ours is no farther from stock than stock from itself, rounded otherwise."""
    kept = ROOT / "benchmarks/results/training"
    names = ["plugin", "stock", "stock-sse41"]
    ours, stock, control = runs = read_runs([str(kept / f"{name}.csv") for name in names])
    assert [run.name for run in runs] == names
    result = json.loads((ROOT / "benchmarks/results/training.json").read_text())
    losses = [key for key in stock.columns if key.startswith("train/")]
    near, far = (max(np.abs(run.columns[key] / stock.columns[key] - 1)[0] for key in losses) for run in (ours, control))
    assert near <= far
    assert result["difference"]["train"]["first_epoch"] == pytest.approx(near, rel=0.05)
    assert result["losses"]["plugin"]["val/cls_loss"] == ours.columns["val/cls_loss"].tolist()
