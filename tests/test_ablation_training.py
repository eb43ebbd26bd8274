"""Trainings of an ablation's variants: equal, resumable, and written down, whatever comes between."""

import errno
import itertools
import json
import os
import pkgutil
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import yolov12
from ultralytics.utils.checks import check_yaml

from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.nn import attention
from yolov12_plugin.paper import leftovers, training
from yolov12_plugin.paper.ablations import ABLATIONS, Ablation, Variant
from yolov12_plugin.paper.training import page, pick, read_arguments, read_words, scale_epochs, train_ablation, view

pytestmark = pytest.mark.train

TINY = dict(epochs=2, imgsz=32, batch=4, fraction=0.125, device="cpu", plots=False)
NET = """
nc: 80
{section}
backbone:
  - [-1, 1, Conv, [{width}, 3, 2]]
  - [-1, 1, Conv, [{width}, 3, 2]]
  - [-1, 1, Conv, [{width}, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, A2C2f, [64, True, 1]]
  - [-1, 1, Conv, [64, 3, 2]]
head:
  - [[2, 4, 5], 1, Detect, [nc]]
"""
NETS = {
    "tiny-a": dict(width=8, section=""),
    "tiny-b": dict(width=8, section=""),  # the same
    "tiny-c": dict(width=16, section=""),
    "tiny-lost": dict(width=8, section="a2c2f: {residual: 3.0e+38}"),  # overflows
}


def variant(model, **about):
    return Variant(model.upper(), model, name=model.removeprefix("tiny-"), **about)


def table(*models, **about):
    return Ablation("table9", "Tiny", tuple(variant(model, ap=40.5, **about) for model in models))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_nets()
    return tmp_path


def write_nets():
    for name, about in NETS.items():
        Path(f"{name}.yaml").write_text(NET.format(**about))


def train(ablation, out="out", lines=None, **more):
    report = lines.append if lines is not None else lambda line: None
    return train_ablation(ablation, "shapes.yaml", Path(out), report=report, **TINY | more)


def runs(results):
    return {run["folder"]: run for variant in results["variants"] for run in variant["runs"]}


def rows(folder):
    """Lines of a results.csv without the time."""
    cells = [line.split(",") for line in (Path(folder) / "results.csv").read_text().splitlines()]
    return [[cell for i, cell in enumerate(row) if i != 1] for row in cells]


def epochs(folder):
    return [int(row[0]) for row in rows(folder)[1:]]


def cells(file):
    """The rows of a Markdown table, by their first cell and the columns' titles."""
    lines = [line for line in Path(file).read_text().splitlines() if line.startswith("|")]
    titles, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert all(len(row) == len(titles) for row in rows)
    return {row[0]: dict(zip(titles, row)) for row in rows}


def files(root):
    """All that is in run folders, and when it was written."""
    found = [path for path in Path(root).rglob("*") if path.is_file() and path.parent != Path(root)]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two equal variants of three, trained: the folder, the results, what was reported, and what the caller had."""
    home = tmp_path_factory.mktemp("ablation")
    before = os.getcwd()
    os.chdir(home)
    write_nets()
    lines, steps = [], []
    try:
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        environment, threads = dict(os.environ), torch.get_num_threads()
        expected = random.Random(5).random(), np.random.RandomState(5).rand()
        results = train(
            table("tiny-a", "tiny-b", "tiny-c"),
            variants=["a", "b"],
            lines=lines,
            advance=lambda *step: steps.append(step),
        )
        after = (random.random(), np.random.rand()) == expected, torch.initial_seed() == 5
        after += dict(os.environ) == environment, torch.get_num_threads() == threads
    finally:
        os.chdir(before)
    return home, results, lines, steps, after


def test_equal_variants_train_equally(trained):
    """Two names of one network: the same epochs, and other losses than another seed's."""
    home, *_ = trained
    a, b = home / "out/a", home / "out/b"
    assert rows(a) == rows(b) and epochs(a) == [1, 2]
    ours, theirs = ((run / "args.yaml").read_text() for run in (a, b))
    differ = {x.split(":")[0] for x, y in zip(ours.splitlines(), theirs.splitlines()) if x != y}
    assert differ == {"model", "name", "save_dir"}
    assert "deterministic: true" in ours and "seed: 0" in ours


def test_results(trained):
    home, results, lines, steps, _ = trained
    out = home / "out"
    assert json.loads((out / "results.json").read_text()) == results
    assert (out / "results.md").read_text() == page(results)
    assert (out / "ablation.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in out.iterdir()) == ["a", "ablation.png", "b", "results.json", "results.md"]
    a, b, c = results["variants"]
    assert (
        a["losses_finite"]
        and b["losses_finite"]
        and c["losses_finite"] is None
        and c["runs"] == []
        and results["failed"] == []
    )
    assert a["parameters"] == b["parameters"] > 10_000 and a["gflops"] > 0
    assert runs(results)["a"]["epochs"] == 2 and runs(results)["a"]["best"]["epoch"] in (1, 2)
    assert (a["ap_paper"], a["epochs"]) == (40.5, 2)
    assert [line.split(":")[0] for line in lines] == ["a", "a", "b", "b"]
    assert steps[-1] == ("b", 4, 4) and ("a", 1, 4) in steps and ("b", 3, 4) in steps
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)
    found = cells(out / "results.md")
    assert list(found) == ["TINY-A", "TINY-B", "TINY-C"]
    assert found["TINY-A"]["Losses finite"] == "✓" and found["TINY-A"]["Params (M)"] == "0.3"
    assert found["TINY-C"]["Losses finite"] == "not trained" and found["TINY-C"]["mAP50-95"] == "–"
    assert {row["COCO AP (paper)"] for row in found.values()} == {"40.5"}


def test_finite_losses_are_not_called_convergence(trained):
    results = deepcopy(trained[1])
    shown = view(results)
    assert "Converged" not in shown.columns.values() and shown.columns["losses_finite"] == "Losses finite"
    said = "mAP 0 in every epoch, so nothing was learned that is seen yet: "
    for best in 0.0, 0.1:
        for run in (run for variant in results["variants"] for run in variant["runs"]):
            run["best"]["mAP50-95"] = best
        assert any(line.startswith(said) for line in view(results).notes) == (not best)
    assert any("less than the paper's convergence" in line for line in shown.notes)


def test_what_the_caller_had_is_left(trained):
    """Random numbers, environment and threads, all of which a training sets."""
    *_, after = trained
    assert after == (True, True, True, True)


@pytest.fixture
def copy(trained, folder):
    """The trained folder, moved to another place."""
    shutil.copytree(trained[0] / "out", "out")
    return folder


def test_finished_is_left_alone(copy):
    before, lines = files("out"), []
    results = train(table("tiny-a", "tiny-b", "tiny-c"), variants=["[ab]"], lines=lines)
    assert files("out") == before
    assert [line.partition(": mAP")[0] for line in lines] == ["a: before", "b: before"]
    assert runs(results)["a"]["status"] == "trained" and results["failed"] == []


def test_variants_and_seeds_are_added(copy):
    before = files("out")
    results = train(table("tiny-a", "tiny-b", "tiny-c"), variants=["a"], seeds=[1], workers=1, verbose=False)
    assert list(runs(results)) == ["a", "a-seed1", "b"]
    assert {path: content for path, content in files("out").items() if path in before} == before
    assert epochs("out/a-seed1") == [1, 2] and rows("out/a-seed1") != rows("out/a")
    a = results["variants"][0]
    best = [run["best"]["mAP50-95"] for run in a["runs"]]
    assert [run["seed"] for run in a["runs"]] == [0, 1] and a["mAP50-95"] == pytest.approx(np.mean(best), abs=1e-5)
    row = cells("out/results.md")["TINY-A"]
    assert row["of each seed"] == ", ".join(f"{100 * value:.1f}" for value in best) and row["Losses finite"] == "✓ ✓"
    assert "seed 0, 1" in page(results)


@pytest.mark.parametrize(
    "more, says",
    [
        (dict(epochs=3), "epochs is 2 there and 3 here"),
        (dict(imgsz=64), "imgsz is 32 there and 64 here"),
        (dict(batch=8), "batch is 4 there and 8 here"),
        (dict(lr0=0.5), "lr0 is 0.01 there and 0.5 here"),
        (dict(fraction=1.0, mosaic=0.0), "fraction is 0.125 there and 1.0 here, mosaic is 1.0 there and 0.0 here"),
        (dict(cfg="yolov12n-finetune.yaml"), r"and \d+ more"),
    ],
)
def test_other_arguments_are_refused(copy, more, says):
    before = files("out")
    with pytest.raises(NotRunnable, match=f"was trained with other arguments: .*{says}.*name another folder") as e:
        train(table("tiny-a", "tiny-c"), **more)
    assert "\n" not in str(e.value) and files("out") == before


def test_other_data_or_table_are_refused(copy):
    Path("mine.yaml").write_text(Path(check_yaml("shapes.yaml")).read_text())
    with pytest.raises(NotRunnable, match=r"data is shapes.yaml there and /.*/mine.yaml here; name another folder"):
        train_ablation(table("tiny-a"), "mine.yaml", Path("out"), **TINY)
    with pytest.raises(NotRunnable, match="ablation is table9 there and table2 here"):
        train(ABLATIONS["table2"], variants=["n"])


def test_defaults_by_name_are_no_other_arguments(copy):
    assert train(table("tiny-a"), lr0=0.01, seeds=[0])["failed"] == []


@pytest.mark.parametrize(
    "prepare, says",
    [
        (lambda out: (out / "a").mkdir(parents=True), "has a, and no results.json"),
        (lambda out: out.write_text(""), "is no folder"),
        (lambda out: (out.mkdir(), (out / "results.json").write_text("[1]")), "is none of an ablation"),
        (lambda out: (out.mkdir(), (out / "results.json").write_text("{")), "is none of an ablation"),
    ],
)
def test_folders_of_something_else(folder, prepare, says):
    prepare(folder / "out")
    with pytest.raises(NotRunnable, match=f"{says}.*name another"):
        train(table("tiny-a"))


def test_arguments_bind_only_what_was_trained(folder):
    """A mistake of which nothing came can be mended in the same folder."""
    results = train(table("tiny-a"), optimizer="Nonsense")
    assert results["failed"] == ["a"] and "ptimizer" in runs(results)["a"]["reason"]
    assert train(table("tiny-a"), epochs=1)["failed"] == []


def test_failures(folder, monkeypatch):
    """A model that is not there, one that does not build, one that raises; and each is tried again."""
    Path("tiny-bad.yaml").write_text(NET.format(width=8, section="a2c2f: {area: 0}"))
    from ultralytics.nn.tasks import DetectionModel

    loss = DetectionModel.loss

    def raises(self, batch, preds=None):
        if self.training and "tiny-c" in str(self.yaml_file if hasattr(self, "yaml_file") else self.yaml["yaml_file"]):
            raise KeyError("my own")
        return loss(self, batch, preds)

    monkeypatch.setattr(DetectionModel, "loss", raises)
    lines = []
    results = train(table("tiny-missing", "tiny-bad", "tiny-c", "tiny-a"), lines=lines, epochs=1)
    found = runs(results)
    assert results["failed"] == ["missing", "bad", "c"] and found["a"]["losses_finite"]
    for name, reason in {"missing": "tiny-missing.yaml", "bad": "area=0", "c": "KeyError: 'my own'"}.items():
        assert found[name]["status"] == "failed" and found[name]["losses_finite"] is None
        assert reason in found[name]["reason"]
        assert sum(line.startswith(f"{name}: failed: ") for line in lines) == 1
        assert f"- {name}: failed: " in Path("out/results.md").read_text()
    assert [row["Losses finite"] for row in cells("out/results.md").values()] == ["failed", "failed", "failed", "✓"]
    assert all("\n" not in line for line in lines)
    before = files("out/a")
    monkeypatch.setattr(DetectionModel, "loss", loss)
    Path("tiny-missing.yaml").write_text(NET.format(**NETS["tiny-a"]))
    results = train(table("tiny-missing", "tiny-bad", "tiny-c", "tiny-a"), epochs=1)
    assert results["failed"] == ["bad"] and files("out/a") == before and epochs("out/c") == [1]


def test_out_of_memory_makes_no_smaller_batch(folder, monkeypatch):
    """Ultralytics would halve it, on devices where it can, for this variant alone."""
    from ultralytics.nn.tasks import DetectionModel

    loss = DetectionModel.loss

    def full(self, batch, preds=None):
        if self.training and len(batch["img"]) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return loss(self, batch, preds)

    monkeypatch.setattr(DetectionModel, "loss", full)
    results = train(table("tiny-a"), epochs=1)
    assert results["failed"] == ["a"] and "memory" in runs(results)["a"]["reason"]
    assert not Path("out/a/results.csv").exists()


def test_loss_that_is_not_finite(folder):
    """As Table 2's cross: recorded with its reason, and not trained again until its folder is deleted."""
    lines = []
    results = train(table("tiny-lost", "tiny-a"), lines=lines)
    lost, good = runs(results)["lost"], runs(results)["a"]
    assert (lost["status"], lost["losses_finite"], good["losses_finite"]) == ("losses not finite", False, True)
    assert "epoch 1, batch 1: the output of model.4 (A2C2f) is the first that is not finite" in lost["reason"]
    assert results["failed"] == ["lost"]
    assert results["variants"][0]["mAP50-95"] is None
    assert "lost: losses not finite: " in "\n".join(lines)
    before, lines = files("out"), []
    again = train(table("tiny-lost", "tiny-a"), lines=lines)
    assert files("out") == before and runs(again)["lost"] == lost and again["failed"] == ["lost"]
    assert any(f"if you delete {folder / 'out/lost'}" in line for line in lines)
    shutil.rmtree("out/lost")
    Path("tiny-lost.yaml").write_text(NET.format(**NETS["tiny-a"]))
    assert train(table("tiny-lost"))["failed"] == []


def test_epochs_are_the_budget_of_table_5c():
    lines = []
    assert scale_epochs(ABLATIONS["table5c"], 60, lines.append) == {300: 30, 500: 50, 600: 60, 800: 80}
    assert lines == ["table5c: 300, 500, 600 and 800 epochs of the paper are 30, 50, 60 and 80 here"]
    assert scale_epochs(ABLATIONS["table5c"], 600, lines.append) == {n: n for n in (300, 500, 600, 800)}
    assert scale_epochs(ABLATIONS["table2"], 1, lines.append) == {600: 1} and len(lines) == 2
    for few in 1, 2, 3:
        with pytest.raises(NotRunnable, match=rf"epochs={few} makes .*: name at least 4"):
            scale_epochs(ABLATIONS["table5c"], few, lines.append)


def test_table_5c_trains_them(folder):
    slow, fast = (Variant(f"{n} epochs", "tiny-a", epochs=n, name=f"e{n}") for n in (600, 300))
    results = train(Ablation("table5c", "Epochs", (slow, fast)))
    assert epochs("out/e600") == [1, 2] and epochs("out/e300") == [1]
    assert [v["epochs"] for v in results["variants"]] == [2, 1]


def test_attention_of_table_5h(folder, monkeypatch):
    """Its own of each variant where that is what varies, and else what is selected."""
    used = []
    monkeypatch.setattr(training, "train", lambda *args: used.append(attention.attention_backend.current()) or 1 / 0)
    train(Ablation("table5h", "Attention", (variant("tiny-a", backend="math"), variant("tiny-b"))))
    train(table("tiny-a", "tiny-b", backend="math"), out="other")
    assert used == ["math", "auto", "auto", "auto"] and attention.attention_backend.current() == "auto"


@pytest.mark.parametrize(
    "names, found", [([], 13), (["n*"], 3), (["l", "x"], 2), (["?-elan", "n"], 4), (["*residual-0.1"], 3)]
)
def test_variants(names, found):
    picked = pick(ABLATIONS["table2"], names)
    assert len(picked) == found and picked == sorted(picked, key=ABLATIONS["table2"].variants.index)


def test_no_such_variant():
    with pytest.raises(NotRunnable, match=r"table2 has no variant n-elam; did you mean n-elan"):
        pick(ABLATIONS["table2"], ["n", "n-elam"])


@pytest.mark.parametrize("name", ABLATIONS)
def test_slugs_are_folders(name):
    slugs = [variant.slug for variant in ABLATIONS[name].variants]
    assert len(set(slugs)) == len(slugs) and all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", slug) for slug in slugs)
    assert not any(re.search(r"-seed\d+$", slug) for slug in slugs)


def test_arguments():
    found = read_arguments("shapes.yaml", {"cfg": "yolov12n-finetune.yaml", "lr0": 0.1, "epochs": 3})
    assert found["optimizer"] == "AdamW" and (found["lr0"], found["epochs"], found["batch"]) == (0.1, 3, 16)
    assert not {"model", "seed", "deterministic", "cfg"} & set(found) and found["data"] == "shapes.yaml"
    assert read_arguments("shapes.yaml", {})["epochs"] == 100


@pytest.mark.parametrize(
    "named, says",
    [
        ({"lr": 0.1}, "lr is no argument of Ultralytics' training: did you mean lr"),
        ({"optimiser": "SGD"}, "did you mean optimizer?"),
        ({"qqqq": 1}, "`yolo cfg` lists them"),
        ({"project": "x"}, "project is no argument to choose here"),
        ({"time": 1}, "time is no argument to choose here"),
        ({"seed": 1}, "seed is no argument to choose here: name it by --seed"),
        ({"batch": -1}, "batch=-1 must be an integer of at least 1"),
        ({"batch": 0.7}, "batch=0.7 must be"),
        ({"epochs": 0}, "epochs=0 must be"),
        ({"lr0": "high"}, "'lr0=high' is of invalid type str"),
        ({"mosaic": 2.0}, "'mosaic=2.0' is an invalid value"),
        ({"cfg": "own.yaml"}, "own.yaml is no YAML file of arguments"),
        ({"cfg": "typo.yaml"}, "did you mean optimizer?"),
    ],
)
def test_arguments_that_cannot_be(folder, named, says):
    Path("own.yaml").write_text("- 1\n")
    Path("typo.yaml").write_text("optimzer: SGD\n")
    with pytest.raises(NotRunnable, match=re.escape(says)) as e:
        train_ablation(table("tiny-a"), "shapes.yaml", Path("out"), **named)
    assert "\n" not in str(e.value) and not Path("out").exists()


@pytest.mark.parametrize("named", [dict(data="nowhere.yaml"), dict(device="7"), dict(variants=["z"])])
def test_nothing_is_made_of_what_cannot_be(folder, named):
    with pytest.raises(NotRunnable) as e:
        train_ablation(table("tiny-a"), named.pop("data", "shapes.yaml"), Path("out"), **TINY | named)
    assert "\n" not in str(e.value) and not Path("out").exists()


def test_words():
    assert read_words(["lr0=0.01", "optimizer=SGD", "cos_lr=True", "classes=[0,1]"]) == {
        "lr0": 0.01,
        "optimizer": "SGD",
        "cos_lr": True,
        "classes": [0, 1],
    }
    for word in "lr0", "lr0=", "=1":
        with pytest.raises(NotRunnable, match=f"{word} is no argument of a training: it must be KEY=VALUE"):
            read_words([word])


def test_no_such_cfg(folder):
    with pytest.raises(OSError, match=r"nowhere\.yaml"):
        read_arguments("shapes.yaml", {"cfg": "nowhere.yaml"})


# An ablation in a process of its own, that kills itself once it has trained so many epochs of all.
KILLED = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_ablation_training import TINY, table, train_ablation
die = int(sys.argv[1])
advance = lambda what, done, total: os.kill(os.getpid(), signal.SIGKILL) if done == die else None
results = train_ablation(table("tiny-a", "tiny-b", "tiny-c"), "shapes.yaml", Path("out"), advance=advance, **TINY | dict(epochs=3))
print(json.dumps(results))
"""


@pytest.mark.process
def test_killed_and_started_again(fork, folder):
    """At the 2nd, 5th, 7th and 9th of nine epochs: before a first checkpoint, between, in the last epoch of all."""
    code = KILLED.replace("{tests!r}", repr(str(Path(__file__).parent)))

    def start(die):
        return fork([sys.executable, "-c", code, die], check=False)

    assert start(1).returncode == -signal.SIGKILL
    assert not Path("out/a/weights/last.pt").exists()
    assert start(2).returncode == -signal.SIGKILL
    assert epochs("out/a") == [1]
    assert start(5).returncode == -signal.SIGKILL
    assert epochs("out/a") == [1, 2, 3] and epochs("out/b") == [1]
    finished = files("out/a")
    state = json.loads(Path("out/results.json").read_text())
    assert [run["status"] for run in runs(state).values()] == ["trained", "unfinished"]
    done = start(9)
    assert done.returncode == -signal.SIGKILL and "b: goes on after epoch 1 of 3" in done.stdout
    done = start(0)
    assert done.returncode == 0 and "c: goes on after epoch 2 of 3" in done.stdout
    assert files("out/a") == finished
    for name in "abc":
        assert epochs(f"out/{name}") == [1, 2, 3]
        assert sorted(p.name for p in Path(f"out/{name}/weights").iterdir()) == ["best.pt", "last.pt"]
    results = json.loads(done.stdout.splitlines()[-1])
    assert {name: run["resumed"] for name, run in runs(results).items()} == {"a": 1, "b": 1, "c": 1}
    assert all(run["losses_finite"] for run in runs(results).values())
    assert "a: times that it was resumed: 1" in Path("out/results.md").read_text()


def saved():
    """When each checkpoint was written."""
    return {path: path.stat().st_mtime_ns for path in Path("out").glob("*/weights/last.pt")}


@pytest.mark.process
def test_killed_at_any_moment(folder):
    """From outside, some time after an epoch: each is there once, and what was finished is not touched again."""
    command = [sys.executable, "-c", KILLED.replace("{tests!r}", repr(str(Path(__file__).parent)))]
    dice, finished, kills = random.Random(0), {}, 0
    while True:
        child = subprocess.Popen([*command, "0"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        before = saved()
        while saved() == before and child.poll() is None:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 1.5))
        if child.poll() is not None:
            break
        child.kill()
        child.wait()
        kills += 1
        for name, known in finished.items():
            assert files(f"out/{name}") == known
        record = json.loads(Path("out/results.json").read_text())
        finished |= {name: files(f"out/{name}") for name, run in runs(record).items() if run["status"] == "trained"}
    assert child.returncode == 0 and kills >= 2, child.stderr.read().decode()
    for name in "abc":
        assert epochs(f"out/{name}") == [1, 2, 3]
        assert files(f"out/{name}") == finished.get(name, files(f"out/{name}"))
    assert json.loads(Path("out/results.json").read_text())["failed"] == []


def interrupt(epoch):
    """What ends a training as a Ctrl-C does."""

    def advance(what, done, total):
        if done == epoch:
            raise KeyboardInterrupt

    return advance


def test_interrupted_moved_and_gone_on_with(folder):
    """Ultralytics keeps the folder of a run in its checkpoint; what goes on is the one that is there."""
    with pytest.raises(KeyboardInterrupt):
        train(table("tiny-a"), advance=interrupt(2))
    assert epochs("out/a") == [1]
    record = json.loads(Path("out/results.json").read_text())
    assert runs(record)["a"]["status"] == "unfinished" and runs(record)["a"]["losses_finite"] is None
    shutil.move("out", "moved")
    lines = []
    results = train(table("tiny-a"), out="moved", lines=lines)
    assert lines[0] == "a: goes on after epoch 1 of 2" and results["failed"] == []
    assert epochs("moved/a") == [1, 2] and not Path("out").exists()


def test_checkpoint_that_cannot_be_read(folder):
    with pytest.raises(KeyboardInterrupt):
        train(table("tiny-a"), advance=interrupt(2))
    Path("out/a/weights/last.pt").write_bytes(b"PK")
    lines = []
    assert train(table("tiny-a"), lines=lines)["failed"] == []
    assert lines[0] == "a: 2 epochs of tiny-a.yaml, from the start again" and epochs("out/a") == [1, 2]


def test_killed_as_its_only_epoch_ended(folder, monkeypatch):
    """There is no epoch before it to go on from, and its checkpoint has none left to train."""
    from ultralytics.engine.trainer import BaseTrainer

    final = BaseTrainer.final_eval
    monkeypatch.setattr(BaseTrainer, "final_eval", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(table("tiny-a"), epochs=1)
    assert Path("out/a/weights/last.pt").exists()
    monkeypatch.setattr(BaseTrainer, "final_eval", final)
    assert train(table("tiny-a"), epochs=1)["failed"] == [] and epochs("out/a") == [1]


def test_stopped_early_is_finished(folder, monkeypatch):
    from ultralytics.utils.torch_utils import EarlyStopping

    monkeypatch.setattr(EarlyStopping, "__call__", lambda self, epoch, fitness: epoch >= 1)
    results = train(table("tiny-a"), epochs=6)
    assert results["failed"] == [] and runs(results)["a"]["epochs"] == 1
    before = files("out")
    assert train(table("tiny-a"), epochs=6) == results and files("out") == before


ONCE = OSError(errno.EIO, "Input/output error"), MemoryError()
OF_TORCH = RuntimeError("DefaultCPUAllocator: can't allocate memory"), ModuleNotFoundError("No module named 'mine'")


@pytest.mark.parametrize(
    "place, error",
    [
        *itertools.product(["torch.load", "pathlib.Path.read_bytes", "pathlib.Path.read_text"], ONCE),
        *itertools.product(["torch.load"], OF_TORCH),
    ],
)
def test_what_cannot_be_read_for_once_is_kept(copy, monkeypatch, place, error):
    """Only a damaged checkpoint means that a run is not finished."""
    real = pkgutil.resolve_name(place)

    def fails(file, *args, **kwargs):
        if place.startswith("torch") or str(file).endswith((".pt", "a/results.csv")):
            raise error
        return real(file, *args, **kwargs)

    before = files("out/a")
    assert before
    with monkeypatch.context() as patch:
        patch.setattr(place, fails)
        results = train(table("tiny-a"))
    assert files("out/a") == before
    assert results["failed"] == ["a"] and runs(results)["a"]["status"] == "failed" and runs(results)["a"]["reason"]
    assert train(table("tiny-a"))["failed"] == [] and files("out/a") == before


@pytest.mark.parametrize("starts", [False, True])
def test_what_starts_again_takes_a_place_when_it_is_there(copy, monkeypatch, starts):
    """Of a run that starts again, what was there stays until the first checkpoint of the new one."""
    from ultralytics.engine.trainer import BaseTrainer

    last, csv = Path("out/a/weights/last.pt"), Path("out/a/results.csv")
    last.write_bytes(b"PK")
    Path("out/a/weights/best.pt").write_bytes(b"PK")
    before = {file: file.read_bytes() for file in (last, csv)}
    if not starts:
        monkeypatch.setattr(BaseTrainer, "_setup_train", lambda *a, **k: (_ for _ in ()).throw(OSError("no space")))
    results = train(table("tiny-a"))
    assert (results["failed"] == []) is starts
    assert {file: file.read_bytes() for file in before} == before or starts
    assert not list(Path("out/a").glob(".*")) and (last.stat().st_size > 2) is starts


DAMAGES = {
    "empty": lambda data: b"",
    "begun": lambda data: data[:2],
    "cut": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "other": lambda data: b"a text",
    "a bit": lambda data: data[: (flags := data.rindex(b"PK\x01\x02") + 8)] + b"\1" + data[flags + 1 :],  # encrypted
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_none(copy, damage):
    last = Path("out/a/weights/last.pt")
    last.write_bytes(DAMAGES[damage](last.read_bytes()))
    assert training.epochs_in(last) is None
    assert training.epochs_in(Path("out/a/weights/none.pt")) is None
    assert training.epochs_in(Path("out/a/results.csv/none.pt")) is None


def left(folder):
    """The checkpoints and results of a run, wherever they are in its folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.suffix in (".pt", ".csv")}


@pytest.mark.parametrize("moves", range(10))
def test_a_process_that_dies_between_any_moves(tmp_path, monkeypatch, moves):
    """Three files are moved aside with their folder, and back."""
    (tmp_path / "weights").mkdir()
    for name in "weights/last.pt", "weights/best.pt", "results.csv":
        (tmp_path / name).write_text(name)
    before, replace, done = left(tmp_path), os.replace, []

    def dies(source, target):
        if len(done) == moves:
            raise SystemExit
        done.append(replace(source, target))

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(os, "replace", dies)
        with leftovers.set_aside(tmp_path):
            assert not (tmp_path / "results.csv").exists()
            (tmp_path / "results.csv").write_text("of the new one")
            raise SystemExit
    assert set(before.values()) <= set(left(tmp_path).values())
    leftovers.put_back(tmp_path)
    assert left(tmp_path) == before
    with leftovers.set_aside(tmp_path):
        (tmp_path / "weights/last.pt").write_text("new")
        assert set(left(tmp_path).values()) == {*before.values(), b"new"}
    assert left(tmp_path) == {"weights/last.pt": b"new"}


def test_what_was_replaced_and_cannot_be_deleted(tmp_path, monkeypatch):
    """As where it is open in another process, on Windows: nothing is moved, and the next try goes on."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/last.pt").write_text("good")
    with monkeypatch.context() as patch:
        with leftovers.set_aside(tmp_path):
            (tmp_path / "weights/last.pt").write_text("new")
            patch.setattr(leftovers.shutil, "rmtree", lambda *args, ignore_errors=False: ignore_errors or 1 / 0)
        with pytest.raises(ZeroDivisionError), leftovers.set_aside(tmp_path):
            pass
    assert (tmp_path / "weights/last.pt").read_text() == "new"
    with leftovers.set_aside(tmp_path):
        assert left(tmp_path) == {".before/weights/last.pt": b"new"}
    assert left(tmp_path) == {"weights/last.pt": b"new"}


def test_last_is_not_needed_once_finished(copy):
    Path("out/a/weights/last.pt").unlink()
    before = files("out")
    assert train(table("tiny-a"))["failed"] == [] and files("out") == before


def test_command(trained, folder, monkeypatch):
    """Its options are the training's arguments; the exit code says whether all converged."""
    asked = []

    def stand_in(ablation, data, out, *, report, advance, **options):
        asked.append((ablation.name, data, out, options))
        report("a line"), advance("n", 1, 2)
        return trained[1] | {"failed": ["n"] if data == "bad.yaml" else []}

    monkeypatch.setattr(training, "train_ablation", stand_in)
    options = ["--epochs", 3, "--imgsz", 64, "--batch", 4, "--seed", 1, "--seed", 2, "--device", "cpu", "--workers", 0]
    options += ["--variants", "n*,l", "--variants", "x", "--out", "here", "lr0=0.1", "--json"]
    done = yolov12("paper", "ablation", "2", "--data", "shapes.yaml", *options)
    assert done.exit_code == 0 and json.loads(done.stdout) == trained[1] and done.stderr == "a line\n"
    given = dict(epochs=3, imgsz=64, batch=4, device="cpu", workers=0, lr0=0.1)
    given |= dict(variants=["n*", "l", "x"], seeds=[1, 2])
    assert asked == [("table2", "shapes.yaml", Path("here"), given)]
    failed = yolov12("paper", "ablation", "table2", "--data", "bad.yaml")
    assert failed.exit_code == 1 and "Table 9: Tiny" in failed.stdout and "not trained" in failed.stdout
    assert asked[1][2:] == (Path("ablation-table2"), dict(variants=[], seeds=[0]))


def test_command_interrupted(folder, monkeypatch):
    monkeypatch.setattr(training, "train_ablation", lambda *args, **options: exec("raise KeyboardInterrupt"))
    done = yolov12("paper", "ablation", "table2", "--data", "shapes.yaml")
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr == "Interrupted: the same command goes on from here\n"


@pytest.mark.parametrize(
    "command, says",
    [
        ("table2 --epochs 3", "--epochs is of a training: name its dataset by --data"),
        ("table2 lr0=0.1", "lr0=0.1 is of a training: name its dataset by --data"),
        ("table2 --data shapes.yaml --measure", "--measure and --data are two commands"),
        ("5 --data shapes.yaml", "a training is of one table: name one of table5a"),
        ("table2 --data shapes.yaml --variants z", "table2 has no variant z; variants are n-elan"),
        ("table2 --data shapes.yaml optimzer=SGD", "did you mean optimizer?"),
        ("table2 --data nowhere.yaml", "nowhere.yaml is no dataset that can be trained on"),
        ("table9 --data shapes.yaml", "no ablation is named 'table9'"),
        ("5c --data shapes.yaml --epochs 1", "table5c compares 300, 500, 600 and 800 epochs"),
    ],
)
def test_command_refuses_in_one_line(folder, command, says):
    done = yolov12("paper", "ablation", *command.split())
    assert done.exit_code == 2 and done.stdout == ""
    [line] = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert says in line and not Path("ablation-table2").exists()


@pytest.mark.process
def test_whole_command(fork, folder):
    """N of Table 2, in a process of its own: nothing but JSON on the standard output, and a second time nothing new."""
    command = [Path(sys.executable).with_name("yolov12"), "paper", "ablation", "table2", "--data", "shapes.yaml"]
    command += ["--epochs", 1, "--imgsz", 32, "--batch", 4, "--device", "cpu", "--variants", "n,n-elan", "--json"]
    command += ["fraction=0.125"]
    done = fork(command)
    results = json.loads(done.stdout)
    assert results == json.loads(Path("ablation-table2/results.json").read_text())
    assert list(runs(results)) == ["n-elan", "n"] and results["failed"] == []
    assert [(v["parameters"], v["gflops"]) for v in results["variants"][1:2]] == [(2_590_824, 6.5)]
    before = files("ablation-table2")
    assert json.loads(fork(command).stdout) == results and files("ablation-table2") == before
    assert sorted(path.name for path in Path().iterdir() if path.is_dir()) == ["ablation-table2"]
