import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from ultralytics.cfg import DEFAULT_CFG_DICT, get_cfg
from ultralytics.models.yolo.detect import DetectionTrainer

import yolov12_plugin as y12
from yolov12_plugin.names import CFG
from yolov12_plugin.published import table7
from yolov12_plugin.training import presets

YOLO = Path(sys.executable).with_name("yolo")
FILES = sorted((CFG / "presets").glob("*.yaml"))
# What a preset does not hold, because no weight of a detector depends on it.
NOT_PINNED = {
    "files and output": "model data save save_period project name exist_ok verbose plots profile save_json cfg tracker",
    "the machine": "device workers cache channels_last",
    "starting weights": "pretrained resume cls_remap",
    "other tasks": "task overlap_mask mask_ratio pose kobj rle angle dlog dgrad dlam auto_augment erasing dis",
    "other modes": "mode half int8 quantize dnn nms source vid_stride stream_buffer visualize augment retina_masks embed show"
    " save_frames save_txt save_conf save_crop show_labels show_conf show_boxes line_width format keras optimize dynamic"
    " simplify opset workspace",
}


@pytest.mark.parametrize("scale", "nsmlx")
def test_table_7(scale):
    ours, paper = y12.preset(scale), table7(scale)
    assert {key: ours[key] for key in paper} == paper


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_argument_is_pinned_or_named(path):
    """An argument that Ultralytics adds is decided upon here."""
    loose = set(" ".join(NOT_PINNED.values()).split())
    held = presets.read(path)
    assert set(DEFAULT_CFG_DICT) - set(held) <= loose
    assert not set(held) & (loose - {"model"})
    assert held["optimizer"] != "auto" and "auto" not in map(str, held.values())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_later_additions_are_off(path):
    held = presets.read(path)
    off = dict(cutmix=0, multi_scale=0, cls_pw=0, distill_model=None, compile=False, freeze=None, time=None)
    assert {key: held[key] for key in off} == off


@pytest.mark.parametrize("kind", presets.KINDS)
def test_scales_differ_where_the_paper_s_do(kind):
    held = [y12.preset(scale, kind) for scale in "nsmlx"]
    by_scale = {key for key in held[0] if any(other[key] != held[0][key] for other in held)}
    assert by_scale == ({"scale", "mixup", "copy_paste"} if kind == "coco" else set())


@pytest.mark.parametrize("scale", ["q", "", "N", "nn", "n-coco.yaml/../yolov12s", None])
def test_unknown_scale(scale):
    with pytest.raises(ValueError, match=r"no preset for scale .*; scales are n, s, m, l, x$"):
        y12.preset(scale)


def test_unknown_kind():
    with pytest.raises(ValueError, match="no preset 'voc'; presets are coco, finetune"):
        y12.preset("n", "voc")


def test_unknown_scale_on_the_command_line(fork):
    done = fork([YOLO, "train", "cfg=yolov12q-coco.yaml", "model=yolov12n.yaml"], check=False)
    assert done.returncode and "'yolov12q-coco.yaml' does not exist" in done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_valid_for_this_ultralytics(path):
    held = presets.read(path)
    args = get_cfg(overrides=dict(held))
    assert {key: getattr(args, key, held[key]) for key in held} == held


@pytest.mark.parametrize("scale", "nsmlx")
def test_model_of_the_finetune_preset_has_its_residual(scale):
    from ultralytics import YOLO

    model = YOLO(presets.read(CFG / f"presets/yolov12{scale}-finetune.yaml")["model"]).model
    assert model.yaml["scale"] == scale
    gammas = [block.gamma for i in (6, 8) for block in [model.model[i]]]
    assert all(gamma is not None and torch.all(gamma == 0.01) for gamma in gammas)
    assert "model" not in y12.preset(scale, "finetune")


@pytest.mark.parametrize("task", ["", "-seg", "-cls"])
def test_residual_model_is_the_model_and_one_line(task):
    base, residual = (
        yaml.safe_load((CFG / f"models/yolov12{task}{end}.yaml").read_text()) for end in ("", "-residual")
    )
    assert residual.pop("a2c2f") == {"residual": 0.01} | base.pop("a2c2f", {})
    assert residual == base


@pytest.mark.train
@pytest.mark.process
def test_the_trainer_uses_them(fork, tmp_path):
    """As its own args.yaml says, by both ways in."""
    own = dict(epochs=1, batch=16, imgsz=32, workers=0, device="cpu", plots=False, data="shapes.yaml", fraction=0.25)
    words = [f"{key}={value}" for key, value in own.items()]
    fork([YOLO, "train", "cfg=yolov12m-coco.yaml", "model=yolov12n.yaml", f"project={tmp_path}", "name=cli", *words])
    fork(
        "import sys, yolov12_plugin as y12\n"
        "from ultralytics import YOLO\n"
        f"YOLO('yolov12n.yaml').train(**y12.preset('m') | {own!r}, project=sys.argv[1], name='api')".replace(
            "sys.argv[1]", repr(str(tmp_path))
        )
    )
    preset = y12.preset("m")
    for name in "cli", "api":
        used = yaml.safe_load((tmp_path / name / "args.yaml").read_text())
        assert {key: used[key] for key in preset if key not in own} == {k: v for k, v in preset.items() if k not in own}


class Schedule(DetectionTrainer):
    """Ultralytics' training loop as it is, around a network of one convolution and data that is not there."""

    BATCHES = 34  # an epoch; older Ultralytics warms up for 100 at least

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(3, 1, 1), torch.nn.BatchNorm2d(1)
            self.criterion = None

        def set_head_attr(self, **attributes):
            pass

        def forward(self, x):
            return self.loss(x) if isinstance(x, dict) else x

        def loss(self, batch, preds=None):
            loss = self.norm(self.conv(batch["img"])).sum()
            return loss, torch.zeros(3) if preds is not None else dict.fromkeys(("box", "cls", "dfl"), loss.detach())

    class Loader(list):
        dataset, sampler = [None] * (34 * 256), [None] * (34 * 256)
        num_workers, batch_size, drop_last = 0, 256, False

        def reset(self):
            pass

    def get_dataset(self):
        return {"train": "", "val": "", "nc": 1, "names": {0: "thing"}, "channels": 3}

    def get_model(self, cfg=None, weights=None, verbose=True):
        return self.Net()

    def get_dataloader(self, *args, **kwargs):
        image = torch.rand(2, 3, 4, 4)
        return self.Loader([{"img": image, "cls": torch.zeros(1)}] * self.BATCHES)

    def get_validator(self):
        return SimpleNamespace(metrics=SimpleNamespace(keys=[]), args=SimpleNamespace(plots=False))

    def preprocess_batch(self, batch):
        return batch

    def validate(self):
        return {}, float(self.epoch)  # ever better: patience is not what is tested

    def set_class_weights(self):
        pass

    def save_model(self):
        pass

    def final_eval(self):
        pass

    def epochs_from(self, start, count):
        """Learning rates and momenta of each batch, by parameter group; (epochs, BATCHES) each."""
        seen = []

        def begin(trainer):
            trainer.start_epoch = start
            trainer.scheduler.last_epoch = start - 1

        def note(trainer):
            groups = trainer.optimizer.param_groups
            seen.append([(group["lr"], group["momentum"]) for group in groups])

        def end(trainer):
            trainer.stop = trainer.epoch + 1 == start + count

        self.add_callback("on_pretrain_routine_end", begin)
        self.add_callback("on_train_batch_end", note)
        self.add_callback("on_train_epoch_end", end)
        self.train()
        groups = len(self.optimizer.param_groups)
        return np.array(seen).reshape(count, self.BATCHES, groups, 2)


@pytest.mark.train
def test_learning_rate_and_momentum(tmp_path):
    """Of Ultralytics' own loop at 600 epochs: the warm-up, what follows it, and the end (paper, Table 7)."""

    def schedule():
        own = {
            "data": "x",
            "project": str(tmp_path),
            "plots": False,
            "device": "cpu",
            "workers": 0,
            "model": "yolov12n.yaml",
        }
        return Schedule(overrides=y12.preset("n") | own)

    trainer = schedule()
    first = trainer.epochs_from(0, 5)
    sgd = trainer.optimizer
    assert type(sgd) is torch.optim.SGD and all(group["nesterov"] for group in sgd.param_groups)
    # Ultralytics scales weight_decay from its nominal batch of 64, as it did for the authors.
    assert sorted(g["weight_decay"] for g in sgd.param_groups) == pytest.approx([0, 0, 5e-4 * 256 / 64])
    assert trainer.accumulate == 1

    warm, step = 3 * Schedule.BATCHES, np.arange(5 * Schedule.BATCHES)
    decay = 0.01 * (1 - np.arange(5) / 600 * 0.99)[:, None].repeat(Schedule.BATCHES, 1)
    lr = decay * np.minimum(step / warm, 1).reshape(decay.shape)
    momentum = np.interp(step, [0, warm], [0.8, 0.937]).reshape(decay.shape)
    for group in range(first.shape[2]):  # weights, normalisations and biases alike
        np.testing.assert_allclose(first[..., group, 0], lr, rtol=1e-6)
        np.testing.assert_allclose(first[..., group, 1], momentum, rtol=1e-6)

    last = schedule().epochs_from(598, 2)
    np.testing.assert_allclose(
        last[..., 0][:, 0], 0.01 * (1 - np.array([[598], [599]]) / 600 * 0.99) * [[1, 1, 1]], rtol=1e-6
    )
    one_epoch = last[0, 0, 0, 0] - last[1, 0, 0, 0]
    assert last[1, -1, 0, 0] - one_epoch == pytest.approx(1e-4)  # where the line ends
    assert np.all(last[..., 1] == 0.937)


OLDER = """
import ultralytics.cfg as c, ultralytics
for key in ("cutmix", "cls_pw"):
    c.DEFAULT_CFG_DICT.pop(key, None), c.DEFAULT_CFG.__dict__.pop(key, None)
"""


def test_arguments_that_ultralytics_does_not_have(fork):
    done = fork(
        OLDER + "import yolov12_plugin as y12\n"
        "args = y12.preset('s'); print('cutmix' in args, 'cls_pw' in args, args['mixup']); y12.preset('n')"
    )
    assert done.stdout.split() == ["False", "False", "0.05"]
    assert len(re.findall(r"has no argument .*cutmix.*; left out of the preset\.", done.stderr)) == 1


def test_arguments_that_the_command_line_does_not_have(fork):
    code = (
        "import sys; sys.argv = ['yolo', 'train', 'cfg=yolov12s-coco.yaml', 'model=yolov12n.yaml', 'data=nowhere.yaml'{}]\n"
        + OLDER
        + "class Model:\n"
        "    task = 'detect'\n"
        "    def __init__(self, *a, **k): pass\n"
        "    def train(self, **overrides): print('cutmix' in c.get_cfg(overrides=overrides), overrides['mixup'])\n"
        "ultralytics.YOLO = Model\n"
        "c.entrypoint()"
    )
    done = fork(code.format(""))
    assert "False 0.05" in done.stdout and "left out of the preset" in done.stderr
    done = fork(code.format(", 'cutmix=0.5'"), check=False)
    assert done.returncode and "not a valid YOLO argument" in done.stderr  # the user's own


@pytest.mark.parametrize("there", [False, True])
def test_notice_of_albumentations(fork, tmp_path, there):
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        f"u.find_spec = lambda name, *a: ({there} or None) if name == 'albumentations' else find(name, *a)\n"
        "from ultralytics.utils.checks import check_yaml\n"
        "check_yaml('yolov12.yaml'); print('-', file=__import__('sys').stderr)\n"
        "check_yaml('yolov12n-coco.yaml'); check_yaml('yolov12s-coco.yaml')\n"
        "import yolov12_plugin; yolov12_plugin.preset('n')"
    )
    before, _, after = fork(code).stderr.partition("-\n")
    assert "albumentations" not in before
    assert after.count("pip install albumentations") == (0 if there else 1)
