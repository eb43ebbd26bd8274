import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from ultralytics import YOLO as Model
from ultralytics.cfg import get_cfg

import yolov12_plugin as y12
from yolov12_plugin.training.guard import NEW, drop_rows
from yolov12_plugin.training.nonfinite import advise, first_nonfinite

YOLO = Path(sys.executable).with_name("yolo")
pytestmark = pytest.mark.train

TINY = dict(
    data="shapes.yaml", fraction=0.125, imgsz=32, batch=4, nbs=4, optimizer="SGD", device="cpu", workers=0, plots=False
)
WORDS = [f"{key}={value}" for key, value in TINY.items()]


@pytest.fixture
def trained(tmp_path):
    """A run of two batches an epoch, with callbacks; gives the model and the guard."""

    def train(guard=None, epochs=3, nbs=4, warmup_epochs=3, **callbacks):
        guard = guard or y12.TrainingGuard()
        model = Model("yolov12n.yaml")
        guard.attach(model)
        for event, callback in callbacks.items():
            model.add_callback(event, callback)
        options = TINY | dict(epochs=epochs, nbs=nbs, warmup_epochs=warmup_epochs, exist_ok=True)
        model.train(**options, project=str(tmp_path), name="run")
        return model, guard

    return train


class Poison:
    """A forward hook that gives NaN at one batch: at the guard's second look at it too, or at the first alone."""

    def __init__(self, trainer=None, guard=None, times=0):
        self.trainer, self.guard, self.times = trainer, guard, times

    def __call__(self, module, inputs, output):
        if self.times and self.trainer.epoch == 1 and self.guard.batch == 2:
            self.times -= 1
            return output * float("nan")

    def __reduce__(self):  # in the averaged model, and in checkpoints
        return Poison, ()


@pytest.mark.parametrize(
    "layer, times",
    [("model.3.conv", 2), ("model.6.m.0.1.attn", 2), ("model.8.cv2.bn", 2), ("model.21.cv2.0.0.conv", 2),
     ("model.3.conv", 1), ("model.6.m.0.1.attn", 1)],
)  # fmt: skip
def test_epoch_batch_and_layer_of_an_activation(trained, layer, times, caplog):
    """NaN in the second batch of the second epoch, once; where Ultralytics recovers, the run goes on to its end."""
    guard = y12.TrainingGuard()

    def start(trainer):
        trainer.model.get_submodule(layer).register_forward_hook(Poison(trainer, guard, times))

    model, _ = trained(guard, on_train_start=start)
    recovers = hasattr(model.trainer, "_handle_nan_recovery")
    found = guard.found[0]
    assert len(guard.found) == 1 or not recovers
    assert (found.epoch, found.batch, found.kind) == (2, 2, "activation")
    # What does not happen again is known by the model's layer alone.
    name = layer if times == 2 else ".".join(layer.split(".")[:2])
    assert found.layer.split()[0] == name
    assert ("YOLO12_ATTENTION=math" in found.advice) == ("attn" in name)
    assert ("Computed again, the batch is finite" in found.advice) == (times == 1)
    message, *_ = [line for line in caplog.messages if "yolov12-plugin: " in line]
    assert "yolov12-plugin: epoch 2, batch 2: " in message and f"{name} (" in message
    assert not recovers or all(torch.isfinite(p).all() for p in model.model.parameters())


def step(net=None, amp=False, **batch):
    """A trainer before its step, as the guard sees it, and a batch."""
    net = net or Model("yolov12n.yaml", verbose=False).model.train()
    net.args = get_cfg()
    scaler = SimpleNamespace(get_scale=lambda: 1.0)
    trainer = SimpleNamespace(
        model=net, scaler=scaler, amp=amp, args=get_cfg(), device=torch.device("cpu"), loss_names=("box", "cls", "dfl")
    )
    box = torch.tensor([[0.5, 0.5, 0.4, 0.4]])
    return trainer, dict(
        img=torch.rand(1, 3, 64, 64), batch_idx=torch.zeros(1), cls=torch.zeros(1, 1), bboxes=box
    ) | batch


def test_all_finite_before_and_after():
    trainer, batch = step()
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    first_nonfinite(trainer, batch)
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.state_dict().items())
    assert all(p.grad is None for p in trainer.model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in trainer.model.modules())
    assert first_nonfinite(trainer, batch) is None


@pytest.mark.parametrize("key", ["bboxes", "cls", "img"])
def test_input(key):
    """The images in question are named."""
    two = dict(
        img=torch.rand(2, 3, 64, 64), batch_idx=torch.arange(2.0), cls=torch.zeros(2, 1), bboxes=torch.full((2, 4), 0.5)
    )
    two[key][1] = torch.nan
    trainer, batch = step(**two, im_file=("good.jpg", "bad.jpg"))
    assert first_nonfinite(trainer, batch) == ("input", key)
    assert advise(trainer, "input", key, batch) == "Look at these images and their labels: bad.jpg"


def test_gradient_of_a_network_that_was_quantised_untrained():
    trainer, batch = step()
    assert "quantize" not in advise(trainer, "gradient", "model.0", batch)
    trainer.args.quantize = 8
    assert advise(trainer, "gradient", "model.0", batch).startswith("Try quantize=8 on a checkpoint that was trained")


def test_weight():
    trainer, batch = step()
    with torch.no_grad():
        trainer.model.model[8].m[1][0].mlp[0].conv.weight[0, 0] = torch.inf
    assert first_nonfinite(trainer, batch) == ("weight", "model.8.m.1.0.mlp.0.conv.weight")


@pytest.mark.parametrize(
    "name", [f"model.6.m.0.0.attn.{part}" for part in ("qkv", "proj", "pe")] + ["model.8", "model.16"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activation(name, value):
    trainer, batch = step()
    trainer.model.get_submodule(name).register_forward_hook(lambda m, i, output: output + value)
    kind, layer = first_nonfinite(trainer, batch)
    assert kind == "activation" and layer.split()[0] == name


def test_activation_between_two_layers(monkeypatch):
    """What goes wrong in the attention itself is the attention's, not that of the projection behind it."""
    from yolov12_plugin.nn import modules

    computed = modules.area_attention
    monkeypatch.setattr(
        modules, "area_attention", lambda *a, **k: (computed(*a, **k)[0] * torch.nan, computed(*a, **k)[1])
    )
    trainer, batch = step()
    assert first_nonfinite(trainer, batch) == ("activation", "model.6.m.0.0.attn (AAttn)")


def test_activation_of_bfloat16_autocast():
    trainer, batch = step(amp=True)
    trainer.args.amp = "bf16"
    trainer.model.get_submodule("model.8.cv2").register_forward_hook(lambda m, i, output: output * 3e38 * 1e4)
    assert first_nonfinite(trainer, batch)[1].split()[0] == "model.8.cv2"


def test_loss():
    trainer, batch = step()
    loss = trainer.model.loss
    names = {"box": 0, "cls": 1, "dfl": 2}

    def broken(batch):
        total, items = loss(batch)
        if isinstance(items, dict):
            return total * float("nan"), {
                key: item * (float("nan") if "cls" in key else 1) for key, item in items.items()
            }
        return total * float("nan"), items * torch.tensor([1, float("nan"), 1])

    trainer.model.loss = broken
    kind, item = first_nonfinite(trainer, batch)
    assert kind == "loss" and item.split("_")[0] in names and "cls" in item


class Overflow(torch.autograd.Function):
    """The identity, whose gradient is not finite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * torch.inf


@pytest.mark.parametrize("name", ["model.6.cv2", "model.2", "model.8.m.0.1"])
def test_gradient(name):
    trainer, batch = step()
    trainer.model.get_submodule(name).register_forward_hook(lambda m, i, output: Overflow.apply(output))
    kind, layer = first_nonfinite(trainer, batch)
    assert kind == "gradient" and layer.split()[0].startswith(name)


def test_gradient_of_a_weight_alone():
    trainer, batch = step()
    weight = trainer.model.get_submodule("model.8.cv1.conv").weight
    weight.register_hook(lambda g: g * torch.nan)
    assert first_nonfinite(trainer, batch) == ("gradient", "model.8.cv1.conv.weight")


def test_gradient_is_seen_before_it_is_clipped(trained):
    def start(trainer):
        trainer.model.get_submodule("model.6.cv1.conv").weight.register_hook(
            lambda g: g * torch.inf if trainer.epoch == 0 else g
        )

    _, guard = trained(on_train_start=start, epochs=1)
    assert guard.found[0][:4] == (1, 1, "gradient", "model.6.cv1.conv.weight")


@pytest.mark.parametrize("lasting", [True, False])
def test_gradients_that_are_collected(trained, lasting):
    """A step comes after every second batch; that of the first is named, whether it happens again or not."""
    guard = y12.TrainingGuard()

    def start(trainer):
        def poison(g):
            times.append(guard.batch)
            return g * torch.inf if guard.batch == 1 and (lasting or times.count(1) == 1) else g

        times = []
        trainer.model.get_submodule("model.6.cv1.conv").weight.register_hook(poison)
        trainer.accumulate = 2

    trained(guard, on_train_start=start, epochs=1, nbs=8, warmup_epochs=0)
    assert guard.found[0][:4] == (1, 1, "gradient", "model.6.cv1.conv.weight")


def test_a_guard_of_two_trainings(trained):
    def start(trainer):
        trainer.model.get_submodule("model.6.cv1.conv").weight.register_hook(lambda g: g * torch.inf)

    _, guard = trained(on_train_start=start, epochs=1)
    trained(guard, on_train_start=start, epochs=1)
    assert [found[:3] for found in guard.found] == [(1, 1, "gradient")] * 2


class Scaler:
    """A GradScaler's scale, halved by every batch that overflows."""

    def __init__(self, scale):
        self.scale = scale

    def get_scale(self):
        return self.scale


@pytest.mark.parametrize("real", [True, False])
def test_overflow_of_scaled_gradients(real, caplog):
    """It is the scaler's business until it happens eight times in a row, and is there without the scale too."""
    trainer, batch = step()
    trainer.scaler, trainer.epoch, trainer.loss = Scaler(65536.0), 0, torch.tensor(1.0)
    guard = y12.TrainingGuard()
    guard._images = batch
    weight = trainer.model.get_submodule("model.8.cv1.conv").weight
    if real:
        weight.register_hook(lambda g: g * torch.nan)
    for _ in range(guard.PATIENCE):
        assert guard.found == []
        weight.grad = torch.full_like(weight, torch.inf)
        guard.on_train_batch_start(trainer)
        guard.on_train_batch_end(trainer)
    assert [found[2:4] for found in guard.found] == [("gradient", "model.8.cv1.conv.weight")] * real


def test_second_look_that_fails(monkeypatch):
    from yolov12_plugin.training import guard as module

    def out_of_memory(*args):
        raise RuntimeError("CUDA out of memory. Tried to allocate")

    trainer, _ = step()
    trainer.epoch, trainer.loss = 0, torch.tensor(torch.nan)
    monkeypatch.setattr(module, "first_nonfinite", out_of_memory)
    guard = y12.TrainingGuard()
    guard._outputs = {"model.0 (Conv)": torch.tensor(True), "model.1 (Conv)": torch.tensor(False)}
    guard._check(trainer)
    assert guard.found[0][2:4] == ("activation", "model.1 (Conv)")
    assert "The batch could not be computed again: CUDA out of memory" in guard.found[0].advice


def test_loss_without_names():
    """As that of a classifier on the oldest Ultralytics: one number without a dimension."""
    trainer, batch = step()
    trainer.loss_names = ("loss",)
    trainer.model.loss = lambda batch: (torch.tensor(torch.nan), torch.tensor(torch.nan))
    assert first_nonfinite(trainer, batch) == ("loss", "loss")


def hooks():
    return dict(torch.nn.modules.module._global_forward_hooks)


def by_model(options, event, callback):
    model = Model("yolov12n.yaml")
    y12.TrainingGuard().attach(model)
    model.add_callback(event, callback)
    model.train(**options)


def by_trainer(options, event, callback):
    from ultralytics.models.yolo.detect import DetectionTrainer

    trainer = DetectionTrainer(overrides=options | {"model": "yolov12n.yaml"})
    y12.TrainingGuard().attach(trainer)
    trainer.add_callback(event, callback)
    trainer.train()


EVENTS = ("on_pretrain_routine_end", "on_train_start", "on_train_batch_end", "on_fit_epoch_end", "on_train_end")


@pytest.mark.train
@pytest.mark.parametrize(
    "train, event, error",
    [*((by_model, event, ValueError) for event in EVENTS), (by_trainer, EVENTS[2], KeyboardInterrupt)],
)
def test_a_training_that_raises_leaves_no_hook(tmp_path, train, event, error):
    """Older Ultralytics calls no teardown then. What a training swaps of Ultralytics is put back too."""
    from ultralytics.engine import trainer as engine

    before, strip = hooks(), engine.strip_optimizer

    def fails(trainer):
        assert len(hooks()) == len(before) + 1
        raise error

    with pytest.raises(error):
        train(TINY | dict(epochs=1, exist_ok=True, project=str(tmp_path), name="run"), event, fails)
    assert hooks() == before and engine.strip_optimizer is strip


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path, caplog):
    """Ultralytics would save them as zeros, in the first epoch of a resumed training."""
    model = Model("yolov12n.yaml")
    y12.TrainingGuard().attach(model)
    model.add_callback("on_fit_epoch_end", lambda trainer: 1 / (trainer.epoch != 1))
    with pytest.raises(ZeroDivisionError):
        model.train(**TINY, epochs=4, project=str(tmp_path), name="run")
    last = tmp_path / "run/weights/last.pt"
    before = last.read_bytes()

    def poison(trainer):
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.fill_(torch.nan)
        trainer.stop = True

    resumed = Model(last)
    y12.TrainingGuard().attach(resumed)
    resumed.add_callback("on_train_epoch_end", poison)
    resumed.add_callback("on_train_batch_end", lambda trainer: trainer.ema.update(trainer.model))
    kept = []
    resumed.add_callback("on_fit_epoch_end", lambda trainer: kept.append(last.read_bytes()))

    def nan_everywhere(trainer):
        for value in trainer.ema.ema.state_dict().values():
            if value.is_floating_point():
                value.fill_(torch.nan)

    resumed.add_callback("on_train_epoch_end", nan_everywhere)
    resumed.train(resume=True)
    assert kept[0] == before
    assert "epoch 3 is not saved, as its weights are not finite" in caplog.text
    assert "not saved, as their weights were not finite: epochs 3" in caplog.messages[-1]


def test_nothing_to_say_of_a_good_run(trained, caplog):
    model, guard = trained(epochs=2)
    assert guard.found == [] and "yolov12-plugin: " not in caplog.text
    weights = Path(model.trainer.wdir)
    assert sorted(p.name for p in weights.iterdir()) == ["best.pt", "last.pt"]
    assert all(torch.load(p, weights_only=False)["epoch"] == -1 for p in weights.iterdir())  # stripped, as ever


@pytest.mark.process
def test_same_weights_with_and_without(fork, tmp_path):
    for guard in "01":
        command = [YOLO, "train", "model=yolov12n.yaml", "epochs=2", f"project={tmp_path}", f"name={guard}", *WORDS]
        fork(command, YOLO12_GUARD=guard)
    states = [torch.load(tmp_path / g / "weights/last.pt", weights_only=False)["model"].state_dict() for g in "01"]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


HEADER = "epoch,time,train/box_loss\n"


@pytest.mark.parametrize(
    "lines, kept",
    [
        (["1,1.5,3", "2,2.5,2"], ["1,1.5,3", "2,2.5,2"]),
        (["1,1.5,3", "2,2.5,2", "3,3.5,1"], ["1,1.5,3", "2,2.5,2"]),
        (["1,1.5,3", "2,2.5,2", "2,0.5,1"], ["1,1.5,3", "2,0.5,1"]),
        (["1,1.5,3", "2,2."], ["1,1.5,3"]),
        ([], []),
    ],
)
def test_rows_after_the_checkpoint(tmp_path, lines, kept):
    csv = tmp_path / "results.csv"
    whole = HEADER + "".join(f"{line}\n" for line in lines)
    csv.write_text(whole)
    drop_rows(csv, after=2)
    assert csv.read_text() == HEADER + "".join(f"{line}\n" for line in kept)
    csv.write_text(whole + "3,4.")  # cut off
    drop_rows(csv, after=2)
    assert csv.read_text() == HEADER + "".join(f"{line}\n" for line in kept)
    csv.write_text("")
    drop_rows(csv, after=2)
    assert csv.read_text() == ""
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]


def epochs_of(folder):
    rows = (folder / "results.csv").read_text().splitlines()[1:]
    return [int(row.split(",")[0]) for row in rows]


def losses_of(folder):
    rows = [row.split(",") for row in (folder / "results.csv").read_text().splitlines()]
    column = [name.strip() for name in rows[0]].index("train/cls_loss")
    return [float(row[column]) for row in rows[1:]]


# A training that is killed in the middle of writing its checkpoint.
WRITES = """
import os, signal, sys
from pathlib import Path
from ultralytics import YOLO
import torch

def part(write):
    def killed(self, data):
        global writes
        writes += self.name.startswith("last")
        if writes < 3:
            return write(self, data)
        with open(self, "wb") as f:
            f.write(data[: len(data) // 2]), f.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return killed

writes = 0
Path.write_bytes = part(Path.write_bytes)
YOLO("yolov12n.yaml").train(epochs=5, project=sys.argv[1], name="run", **{TINY!r})
"""


@pytest.mark.process
@pytest.mark.parametrize("guard", [True, False])
def test_killed_while_a_checkpoint_is_written(fork, tmp_path, guard):
    """Without the guard the run is lost; with it, it goes on from the epoch before."""
    guarded = {"YOLO12_GUARD": str(int(guard))}
    written = fork([sys.executable, "-c", WRITES.replace("{TINY!r}", repr(TINY)), tmp_path], check=False, **guarded)
    assert written.returncode == -signal.SIGKILL, written.stderr
    last = tmp_path / "run/weights/last.pt"
    assert (last.parent / NEW).is_dir() == guard
    resumed = fork([YOLO, "train", "resume", f"model={last}"], check=False, **guarded)
    assert (resumed.returncode == 0) == guard, resumed.stderr
    if guard:
        assert epochs_of(tmp_path / "run") == [1, 2, 3, 4, 5]
        assert "from epoch 3 to 5" in resumed.stdout
        assert sorted(p.name for p in last.parent.iterdir()) == ["best.pt", "last.pt"]


@pytest.mark.process
@pytest.mark.parametrize("moment", ["strip_optimizer", "validation"])
def test_killed_at_the_end(fork, tmp_path, moment):
    """Ultralytics strips last.pt and best.pt in place, and such a run does not resume: the last epoch is done again."""
    code = (
        "import os, signal\n"
        "from ultralytics.engine import trainer as t\n"
        "def strip(f, s='', *a, **k):\n"
        "    open(s or f, 'wb').write(b'PK'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "def final(self):\n"
        "    from ultralytics.engine.validator import BaseValidator\n"
        "    BaseValidator.__call__ = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    stock(self)\n"
        "stock = t.BaseTrainer.final_eval\n"
        f"if {moment == 'validation'}: t.BaseTrainer.final_eval = final\n"
        "else: t.strip_optimizer = strip\n"
        "from ultralytics import YOLO\n"
        f"YOLO('yolov12n.yaml').train(epochs=3, project={str(tmp_path)!r}, name='run', **{TINY!r})"
    )
    assert fork(code, check=False, YOLO12_GUARD="1").returncode == -signal.SIGKILL
    weights = tmp_path / "run/weights"
    assert torch.load(weights / "last.pt", weights_only=False)["epoch"] == 1
    torch.load(weights / "best.pt", weights_only=False)
    fork([YOLO, "train", "resume", f"model={weights / 'last.pt'}"], YOLO12_GUARD="1")
    assert epochs_of(tmp_path / "run") == [1, 2, 3]
    assert sorted(p.name for p in weights.iterdir()) == ["best.pt", "last.pt"]
    assert all(torch.load(p, weights_only=False)["epoch"] == -1 for p in weights.iterdir())


@pytest.mark.process
def test_killed_at_random(fork, tmp_path):
    """Each second time at a write, of a training that is resumed: no epoch is lost, twice there or missing."""
    out = tmp_path / "kills.json"
    fork([sys.executable, ROOT / "benchmarks/kills.py", "--guard", "on", "--kills", "4", "--out", out])
    result = json.loads(out.read_text())["guard_on"]
    assert result["kills"] == len(result["tries"]) == 4 and result["lost"] == 0
    epochs = result["epochs"]
    assert epochs == list(range(1, result["tries"][-1]["epoch"] + 4))
    assert np.isfinite(result["cls_loss"]).all()


@pytest.mark.process
def test_loss_goes_on_where_it_was(fork, tmp_path):
    """Interrupted after epoch 5 of 8 and resumed, against the same training in one go."""
    learns = TINY | dict(
        fraction=1.0, imgsz=128, batch=8, nbs=8, optimizer="AdamW", lr0=0.001, warmup_bias_lr=0.0, mosaic=0.0
    )
    code = (
        "import os, sys; from ultralytics import YOLO; model = YOLO('yolov12n-residual.yaml')\n"
        "model.add_callback('on_fit_epoch_end', lambda t: os._exit(9) if t.epoch == int(sys.argv[1]) else None)\n"
        f"model.train(epochs=8, project=sys.argv[2], name=sys.argv[3], **{learns!r})"
    )
    fork([sys.executable, "-c", code, "99", tmp_path, "whole"])
    stopped = [sys.executable, "-c", code, "4", tmp_path, "run"]
    assert fork(stopped, check=False, YOLO12_GUARD="1").returncode == 9
    fork([YOLO, "train", "resume", f"model={tmp_path / 'run/weights/last.pt'}"], YOLO12_GUARD="1")
    assert epochs_of(tmp_path / "run") == epochs_of(tmp_path / "whole") == list(range(1, 9))
    whole, resumed = (np.array(losses_of(tmp_path / name)) for name in ("whole", "run"))
    assert whole[5:].max() < 0.85 * whole[0]  # so to start again would be seen
    # Ultralytics goes on from its averaged weights, and with other draws of the augmentation.
    np.testing.assert_allclose(resumed[5:], whole[5:], rtol=0.15)


def tmpfs(folder, size):
    """A small disk, where the system lets users mount one in a namespace of their own."""
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
            f'mount -t tmpfs -o size={size} tmpfs {folder} && "$@"; code=$?; '
            f'cp -r {folder} {folder}-after; exit $code', "sh"]  # fmt: skip


def can_mount(tmp_path):
    (tmp_path / "probe").mkdir()
    try:
        return subprocess.run([*tmpfs(tmp_path / "probe", "1m"), "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.process
def test_full_disk(run, fork, tmp_path):
    """A message of one line, and the epochs so far are kept and go on once there is room."""
    if not can_mount(tmp_path):
        pytest.skip("this system mounts no tmpfs for users")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [YOLO, "train", "model=yolov12n.yaml", "epochs=3", f"project={disk}", "name=run", *WORDS]
    done = run([*tmpfs(disk, "40m"), *command], check=False, YOLO12_GUARD="1")
    assert done.returncode
    message = done.stderr.strip().splitlines()[-1]
    assert re.match(r"OSError: epoch \d could not be written to .*: No space left on device; .*last\.pt is kept as it was\. "
                    r"Make room there and go on with: yolo train resume model=.*last\.pt", message)  # fmt: skip
    kept = Path(f"{disk}-after/run/weights/last.pt")
    epoch = torch.load(kept, weights_only=False)["epoch"]
    assert f"epoch {epoch + 2} could not" in message
    assert not (kept.parent / NEW).exists()
    shutil.copytree(f"{disk}-after/run", disk / "run")
    fork([YOLO, "train", "resume", f"model={disk / 'run/weights/last.pt'}"], YOLO12_GUARD="1")
    assert epochs_of(disk / "run") == [1, 2, 3]


@pytest.mark.process
def test_file_that_cannot_grow(fork, tmp_path):
    """As a full disk, for systems that mount none: files end at a size below that of a checkpoint."""
    resource = pytest.importorskip("resource", reason="Windows limits no file's size")
    code = (
        "import resource; from ultralytics import YOLO; model = YOLO('yolov12n.yaml')\n"
        "limit = lambda t: t.epoch == 1 and resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))\n"
        "model.add_callback('on_train_epoch_start', limit)\n"
        f"model.train(epochs=3, project={str(tmp_path)!r}, name='run', **{TINY!r})"
    )
    done = fork(code, check=False, YOLO12_GUARD="1")
    assert done.returncode
    assert "OSError: epoch 2 could not be written to" in done.stderr.strip().splitlines()[-1]
    assert torch.load(tmp_path / "run/weights/last.pt", weights_only=False)["epoch"] == 0
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.process
def test_what_it_found_has_a_line_of_its_own_and_is_said_again_at_the_end(fork, tmp_path):
    code = (
        "import torch\n"
        "from ultralytics import YOLO\n"
        "model, batches = YOLO('yolov12n.yaml', verbose=False), []\n"
        "class Poison:\n"
        "    def __call__(self, module, inputs, output):\n"
        "        return output * float('nan') if len(batches) == 1 else output\n"
        "    def __reduce__(self): return Poison, ()\n"
        "model.add_callback('on_train_start', lambda t: t.model.model[3].register_forward_hook(Poison()))\n"
        "model.add_callback('on_train_batch_end', lambda t: batches.append(0))\n"
        f"model.train(epochs=2, project={str(tmp_path)!r}, name='run', **{TINY!r})"
    )
    done = fork(code, check=False, YOLO12_GUARD="1", YOLO12_ATTENTION="math")
    lines = done.stdout.splitlines()
    said = [i for i, line in enumerate(lines) if "epoch 1, batch 2: the output of model.3 (Conv) is the first" in line]
    assert len(said) == 2 and all(lines[i].partition("yolov12-plugin: ")[0] in ("ERROR ❌ ", "ERROR ") for i in said)
    assert "yolov12-plugin: in this training, epoch 1" in lines[said[1]] and said[1] > len(lines) - 12
    assert done.stdout.count("yolov12-plugin: trainings are guarded (YOLO12_GUARD=1)") == 1
    assert done.stdout.count("attention: math (YOLO12_ATTENTION=math)") == 1


@pytest.mark.parametrize("value, wanted", [("1", True), ("on", True), ("0", False), ("off", False), ("", False)])
def test_by_environment(monkeypatch, value, wanted):
    """Every model has a guard of its own, once."""
    monkeypatch.setenv("YOLO12_GUARD", value)
    model = Model("yolov12n.yaml", verbose=False)
    y12.TrainingGuard().attach(model) if wanted else None
    for event in ("on_pretrain_routine_end", "on_train_batch_end", "teardown"):
        guards = [c for c in model.callbacks[event] if isinstance(getattr(c, "__self__", 0), y12.TrainingGuard)]
        assert len(guards) == wanted


def test_guard_travels_to_the_processes_of_ddp():
    """Ultralytics pickles a trainer's callbacks for them."""
    cloudpickle = pytest.importorskip("cloudpickle")
    model = Model("yolov12n.yaml", verbose=False)
    y12.TrainingGuard().attach(model)
    back = cloudpickle.loads(cloudpickle.dumps(model.callbacks["on_train_batch_end"]))
    assert type(back[-1].__self__) is y12.TrainingGuard
