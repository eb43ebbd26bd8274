"""Several processes train one model: Ultralytics' DDP as torchrun starts it, and the workers of Ray Tune."""

import json
import secrets
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from ultralytics import YOLO

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
SHORT = 'data="shapes.yaml", fraction=0.25, imgsz=32, batch=8, epochs=1, device="cpu", plots=False, project=sys.argv[1]'

TRAIN = f"""
import json, os, sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer

rank = int(os.environ["RANK"])


class Trainer(DetectionTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.images, self.world_size = [], int(os.environ["WORLD_SIZE"])  # Ultralytics counts the GPUs of `device`

    def _setup_ddp(self):
        dist.init_process_group("gloo", rank=rank, world_size=self.world_size)
        torch.nn.parallel.DistributedDataParallel = lambda net, device_ids, **kw: DistributedDataParallel(net, **kw)

    def _setup_train(self):
        super()._setup_train()
        self.start = self.weights()

    def preprocess_batch(self, batch):
        self.images += [Path(file).name for file in batch["im_file"]]
        return super().preprocess_batch(batch)

    def final_eval(self):
        self.best = self.best.with_name("none.pt")  # best.pt would be validated on the rank's GPU
        super().final_eval()

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


model = YOLO("yolov12n.yaml")
model.train(trainer=Trainer, nbs=8, mosaic=0, name="train", {SHORT})

trainer = model.trainer
end = trainer.weights()
everyone = [torch.empty_like(end) for _ in range(dist.get_world_size())]
dist.all_gather(everyone, end)
Path(f"{{rank}}.json").write_text(json.dumps(dict(
    registered=sys.modules["yolov12_plugin"].is_registered(),
    attention=type(trainer.model.module.model[6].m[0][0].attn).forward.__module__,
    ddp=isinstance(trainer.model, DistributedDataParallel),
    guarded=hasattr(trainer, "layers_watched"),
    images=trainer.images,
    equal=[torch.equal(end, other) for other in everyone],
    moved=not torch.equal(end, trainer.start),
)))
dist.destroy_process_group()
"""


@pytest.mark.train
@pytest.mark.process
@pytest.mark.parametrize("machines", [1, 2])
def test_ultralytics_trainer_in_two_processes(run, tmp_path, machines):
    """One process a GPU, or a GPU a machine; without GPUs. The script names nothing of the plugin.

    Replaced in Ultralytics' trainer is what takes a GPU: the process group is gloo's instead of NCCL's, DDP gets no
    device, and the validation of best.pt after the last epoch is left out. Two machines are two launchers here.
    """
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    if machines == 1:
        run([*TORCHRUN, "--standalone", "--nproc_per_node=2", script, tmp_path], YOLO12_GUARD="1")
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        meeting = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}"]
        launchers = [[*TORCHRUN, *meeting, f"--node_rank={i}", script, tmp_path] for i in range(2)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(run, launchers))
    ranks = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(2)]
    images = [rank.pop("images") for rank in ranks]
    for rank in ranks:
        assert rank == dict(
            registered=True,
            attention="yolov12_plugin.nn.modules",
            ddp=True,
            guarded=machines == 1,
            equal=[True, True],
            moved=True,
        )
    assert len(images[0]) == len(images[1]) == 8 and len({*images[0], *images[1]}) == 16
    assert YOLO(tmp_path / "train/weights/last.pt").task == "detect"


GRADIENTS = """
import copy, os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from ultralytics import YOLO
from ultralytics.cfg import get_cfg

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.set_default_dtype(torch.float64)  # of the criterion's sums too
torch.manual_seed(rank)  # DDP starts from rank 0's weights
net = YOLO("yolov12n.yaml", verbose=False).model.train()
net.args = get_cfg()
torch.manual_seed(2)
images, boxes, classes = torch.rand(4, 3, 64, 64), torch.rand(4, 20, 4) * 0.5 + 0.25, torch.arange(80.0).view(4, 20, 1)
norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
for norm in norms:
    norm.momentum = 1.0
net(images)
for norm in norms:
    norm.eval()
# Whether buffers are synchronised, which differs between releases, is no matter: nothing writes them.
shared = DistributedDataParallel(net, find_unused_parameters=True)
alone = copy.deepcopy(net)
targets = []
for model in net, alone:
    model.criterion = model.init_criterion()
    model.criterion.assigner.register_forward_hook(lambda module, args, out: targets.append(out[2].sum().clamp(min=1)))


def gradients(model, rows, scale=1, summed=False):
    index = torch.arange(len(rows)).repeat_interleave(20).to(images)
    box, cls = boxes[rows].flatten(0, 1), classes[rows].flatten(0, 1)
    loss = model(dict(img=images[rows], batch_idx=index, bboxes=box, cls=cls))[0].sum()
    if summed:  # Ultralytics' loss is batch / sum of targets times the sum over the images
        loss = loss * targets[-1] / len(rows)
    model.zero_grad()
    (loss * scale).backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


def check(ours, theirs):
    for ours, theirs in zip(ours, theirs, strict=True):
        assert theirs.any()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11 * float(theirs.abs().max()))


halves = [0, 1], [2, 3]
for summed in False, True:
    ours = gradients(shared, halves[rank], scale=world, summed=summed)
    check(ours, [sum(pair) for pair in zip(*(gradients(alone, half, summed=summed) for half in halves))])
check(ours, gradients(alone, [0, 1, 2, 3], summed=True))
os.write(1, f"rank {rank} done\\n".encode())
dist.destroy_process_group()
"""


@pytest.mark.process
def test_gradients_of_two_processes_are_those_of_the_whole_batch(run, tmp_path):
    """yolov12n with Ultralytics' loss, times the number of processes as its trainer takes it, under its DDP settings.

    They are those of the halves one after the other; and of the whole batch, once the loss is a sum over images:
    Ultralytics' divides by the sum of the targets in its process, which differs from half to half. Normalisation keeps
    its statistics, which would be those of the half.
    """
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    out = run([*TORCHRUN, "--standalone", "--nproc_per_node=2", script])
    assert "rank 0 done" in out.stdout and "rank 1 done" in out.stdout


TUNE = f"""
import inspect, json, os, sys
from pathlib import Path

from ultralytics import YOLO
from ultralytics.utils.tuner import run_ray_tune


class Watched(YOLO):
    def train(self, **kwargs):
        def report(trainer):
            attention = type(trainer.model.model[6].m[0][0].attn).forward.__module__
            registered = sys.modules["yolov12_plugin"].is_registered()
            Path(kwargs["project"], "worker.json").write_text(json.dumps([os.getpid(), registered, attention]))

        self.add_callback("on_train_start", report)
        return super().train(**kwargs)


# The default search needs a package of its own; older Ultralytics has the random one only.
search = dict(search_alg="random") if "search_alg" in inspect.signature(run_ray_tune).parameters else dict()
results = Watched("yolov12n.yaml").tune(use_ray=True, iterations=1, grace_period=1, **search, {SHORT})
assert not results.errors, results.errors
print(json.dumps(dict(tuner=os.getpid(), trials=[trial.metrics for trial in results]), default=str))
"""


@pytest.mark.train
@pytest.mark.process
def test_ray_tune(run, tmp_path):
    """A trial trains in a worker of Ray's, which starts with the plugin as every process does."""
    pytest.importorskip("ray", reason="Ray Tune is not installed")
    script = tmp_path / "tune.py"
    script.write_text(TUNE)
    # A short path, for Ray's sockets; and a token of the test's own instead of one in the home directory.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as session:
        env = dict(RAY_TMPDIR=session, RAY_AUTH_TOKEN=secrets.token_hex(), RAY_USAGE_STATS_ENABLED="0")
        out = json.loads(run([sys.executable, script, tmp_path], **env).stdout.splitlines()[-1])
    (trial,) = out["trials"]
    assert trial["epoch"] == 1 and "metrics/mAP50-95(B)" in trial
    pid, *state = json.loads((tmp_path / "worker.json").read_text())
    assert state == [True, "yolov12_plugin.nn.modules"]
    assert pid == trial["pid"] != out["tuner"]
