"""Ultralytics' trainer in the ways in which it is used, on four images."""

import csv
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer

from conformance.capabilities import group
from conformance.networks import OPTIONS, boxes, picture, yolo
from conformance.support import YAML, attention, dataset, equal, twin

capability = group("Training by Ultralytics")


def options(**more) -> dict:
    fixed = dict(imgsz=64, epochs=1, batch=2, workers=0, device="cpu", plots=False, verbose=False, amp=False, seed=0)
    return fixed | dict(optimizer="SGD", data=dataset(), project=str(Path("runs").resolve()), name="train") | more


def train(model: YOLO | None = None, **more) -> YOLO:
    model = model or YOLO(YAML.format("n"))
    model.train(**options(**more))
    return model


def losses(model: YOLO) -> list[float]:
    """The losses of training and validation of each epoch, as results.csv has them."""
    rows = list(csv.DictReader((model.trainer.save_dir / "results.csv").open()))
    return [float(v) for row in rows for k, v in row.items() if "loss" in k]


@capability(tolerance=0.01)
def trained():
    """An epoch: losses are stock's, best.pt loads and predicts"""
    model = train()
    assert YOLO(model.trainer.best).predict(picture(), **OPTIONS)
    assert isinstance(model.trainer.best, Path) and (model.trainer.save_dir / "weights/last.pt").is_file()
    return losses(model)


@capability(tolerance=0.02)
def resumed():
    """`resume=True` of a training that was broken off after its first epoch"""

    class Broken(Exception):
        pass

    def stop(trainer):
        if trainer.epoch == 1:
            raise Broken

    model = YOLO(YAML.format("n"))
    model.add_callback("on_train_epoch_start", stop)
    with suppress(Broken):
        train(model, epochs=2)
    resumed = YOLO(model.trainer.last)
    resumed.train(resume=True)
    assert resumed.trainer.start_epoch == 1 and len(losses(resumed)) == 12
    return losses(resumed)


@capability
def frozen():
    """`freeze=9`: attention's weights stay, the head's move"""
    seen = {}

    def keep(trainer):
        seen["before"] = twin(trainer.model)

    model = YOLO(YAML.format("n"))
    model.add_callback("on_train_start", keep)
    train(model, freeze=9, optimizer="AdamW", lr0=0.01)
    before, after = seen["before"], model.trainer.model
    equal(list(attention(after).parameters()), list(attention(before).parameters()), 1e-9)
    assert not torch.equal(after.model[-1].cv2[0][0].conv.weight, before.model[-1].cv2[0][0].conv.weight)
    return [name for name, p in after.named_parameters() if not p.requires_grad]


@capability
def frozen_by_name():
    """`freeze=` of parts by name"""
    model = train(freeze=["model.6.m.0.0.attn.qkv", "model.8.m.0"])
    return [name for name, p in model.trainer.model.named_parameters() if not p.requires_grad]


@capability(tolerance=0.02)
def several_sizes():
    """`multi_scale`"""
    seen = set()

    class Trainer(DetectionTrainer):
        def preprocess_batch(self, batch):
            batch = super().preprocess_batch(batch)
            seen.add(tuple(batch["img"].shape[2:]))
            return batch

    model = YOLO(YAML.format("n"))
    model.train(trainer=Trainer, **options(multi_scale=0.5, imgsz=128, epochs=2))
    assert len(seen) > 1, seen
    return losses(model)


@capability(tolerance=0.05)
def distilled():
    """Knowledge distillation, `distill_model=` of Ultralytics 8.4, from a teacher of the same kind"""
    teacher = train(name="teacher").trainer.last
    student = train(distill_model=str(teacher), name="student")
    rows = list(csv.DictReader((student.trainer.save_dir / "results.csv").open()))
    loss = float(rows[-1]["train/dis_loss"])
    assert loss > 0
    assert YOLO(student.trainer.best).predict(picture(), **OPTIONS)
    return loss


@capability
def moving_average():
    """The EMA that the trainer keeps is what it saves"""
    model = train()
    saved = torch.load(model.trainer.last, weights_only=False)["model"]  # without its optimizer: the EMA alone
    right = model.trainer.ema.ema.state_dict()
    equal([t.float() for t in saved.state_dict().values()], [t.float() for t in right.values()], 0.01)
    return [type(saved).__name__, model.trainer.ema.updates]


@capability
def callbacks():
    """Callbacks of a training run as often as stock's"""
    events = (
        "on_train_start",
        "on_train_batch_end",
        "on_train_epoch_end",
        "on_fit_epoch_end",
        "on_model_save",
        "on_train_end",
    )
    model, seen = YOLO(YAML.format("n")), []
    for event in events:
        model.add_callback(event, lambda t, event=event: seen.append(event))
    train(model, epochs=2)
    return seen


@contextmanager
def compiling():
    """Ultralytics' `compile=`, by a backend that needs no compiler; yields the modes that it asked for."""
    from torch._inductor import cpp_builder

    modes, original, found = [], torch.compile, cpp_builder.get_cpp_compiler

    def compile(model, *args, backend=None, mode=None, **more):
        modes.append(mode)
        return original(model, backend="eager", **more)

    torch.compile, cpp_builder.get_cpp_compiler = compile, lambda: "none"
    try:
        yield modes
    finally:
        torch.compile, cpp_builder.get_cpp_compiler = original, found


@capability(tolerance=0.01, seconds=300)
def compiled():
    """`compile=True` in a training, its graphs run by backend eager"""
    with compiling() as modes:
        model = train(compile=True, val=False)
    assert modes == ["default"]
    return losses(model)[:3]


@capability(seconds=300)
def compiled_prediction():
    """`compile=True` in a prediction, its graphs run by backend eager"""
    model = yolo()
    right = boxes(model.predict(picture(), **OPTIONS))
    with compiling() as modes:
        other = yolo()
        found = boxes(other.predict(picture(), compile=True, **OPTIONS))
    assert modes == ["default"]
    equal(found, right, 1e-3)


@capability(seconds=300)
def tuned():
    """`tune` of one iteration"""
    model = YOLO(YAML.format("n"))
    model.tune(iterations=1, **options(val=True, name="tune"))
    files = {f.name for f in Path("runs").rglob("*")}
    assert "best_hyperparameters.yaml" in files, files


@capability(tolerance=0.02)
def accumulated():
    """`nbs` larger than the batch: gradients are accumulated; warm-up, cosine, weight decay"""
    return losses(train(nbs=8, cos_lr=True, epochs=2, warmup_epochs=0.5))


@capability(tolerance=0.03)
def optimizers():
    """AdamW and Ultralytics' MuSGD"""
    return [losses(train(optimizer=name, lr0=0.001, name=name)) for name in ("AdamW", "MuSGD")]


@capability(tolerance=0.02)
def augmentations():
    """mixup, cutmix, copy_paste, degrees, perspective; `close_mosaic`, `cache`, `single_cls`"""
    more = dict(
        mixup=0.5, cutmix=0.5, degrees=20, perspective=0.0005, close_mosaic=1, epochs=2, cache=True, single_cls=True
    )
    return losses(train(**more))


@capability(tolerance=0.02)
def rectangular():
    """`rect=True`, of images that are not square"""
    import cv2

    data = dataset(Path("wide"))
    for file in Path("wide/images").glob("*.png"):
        image = cv2.imread(str(file))
        cv2.imwrite(str(file), cv2.resize(image, (64, 40)))
    return losses(train(data=data, rect=True))


@capability
def one_object_throughout():
    """predict, train, val, predict, export and train again of one YOLO object"""
    model = YOLO(YAML.format("n"))
    model.predict(picture(), **OPTIONS)
    train(model)
    assert model.val(data=dataset(), imgsz=64, plots=False, workers=0, verbose=False, device="cpu").results_dict
    model.predict(picture(), **OPTIONS)
    file = model.export(format="torchscript", imgsz=64, device="cpu")
    assert Path(file).is_file()
    train(model, name="again")
    first = [name for name, _ in model.model.named_parameters()]
    assert any(name.endswith("attn.qkv.conv.weight") for name in first)


@capability(tolerance=0.02)
def own_trainer():
    """A trainer of one's own whose network has replaced parts and another loss weight"""

    class Extra(nn.Module):
        def __init__(self, inner, channels):
            super().__init__()
            self.inner, self.gate = inner, nn.Conv2d(channels, channels, 1)

        def forward(self, x):
            return self.inner(x) * self.gate(x).sigmoid()

    class Trainer(DetectionTrainer):
        def get_model(self, *args, **kwargs):
            net = super().get_model(*args, **kwargs)
            torch.manual_seed(1)
            for i in 6, 8:
                for pair in net.model[i].m:
                    for block in pair:
                        block.attn.pe = Extra(block.attn.pe, block.attn.all_head_dim)
                        block.mlp = nn.Sequential(block.mlp[0], nn.Identity(), block.mlp[1])
            return net

        def final_eval(self):
            """A class of a function cannot be loaded again."""

        def save_model(self):
            pass

    model, start = YOLO(YAML.format("n")), {}
    model.add_callback("on_train_start", lambda t: start.update(twin(t.model).state_dict()))
    with suppress(FileNotFoundError):  # YOLO.train reads best.pt, which is not saved
        model.train(trainer=Trainer, **options())
    end = model.trainer.model.state_dict()
    assert sum(".gate.weight" in name and not torch.equal(t, start[name]) for name, t in end.items()) == 8
    return losses(model)


@capability(tolerance=0.02)
def from_a_checkpoint():
    """`pretrained=` of a checkpoint, and a checkpoint trained on with other classes"""
    first = train()
    second = train(pretrained=str(first.trainer.last), name="second")
    third = train(YOLO(first.trainer.last), name="third", classes=[0])
    return [losses(second), losses(third)]


@capability
def by_command_line():
    """`yolo train`, `yolo val` and `yolo predict` of the command line"""
    import subprocess
    import sys

    from ultralytics.cfg import entrypoint

    data = dataset()
    common = f"imgsz=64 device=cpu project={Path('runs').resolve()} verbose=False"
    entrypoint(
        f"yolo train model={YAML.format('n')} data={data} epochs=1 batch=2 workers=0 plots=False name=cli {common}"
    )
    best = next(Path("runs").rglob("best.pt"))
    entrypoint(f"yolo val model={best} data={data} workers=0 plots=False name=val {common}")
    command = [sys.executable, "-c", "from ultralytics.cfg import entrypoint; entrypoint()", "predict", f"model={best}"]
    done = subprocess.run([*command, "source=data/images/0.png", *common.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]
