"""What crosses processes, interpreters and imports."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from conformance.capabilities import group
from conformance.support import STOCK, YAML, attention, equal, fused, images, maps, network

capability = group("Processes")


def child(code: str, *args: str, **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-300:]
    return done


def predict_there(net, queue):
    with torch.no_grad():
        queue.put(net(images())[0].numpy())


def train_there(net, queue):
    net.train()(images())["boxes"].pow(2).mean().backward()
    queue.put([attention(net).qkv.conv.weight.grad.norm().item(), type(net.model[6]).forward.__module__])


def in_a_process(method: str, work, net):
    context = torch.multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=work, args=(net, queue))
    process.start()
    process.join(100)
    assert process.exitcode == 0 and not queue.empty(), process.exitcode
    return queue.get()


@capability(alone=True)
def spawned():
    """A network handed to a spawned process: predicts there, fused or not, what it does here"""
    for net in network().eval(), fused():
        found = in_a_process("spawn", predict_there, net)
        equal(torch.from_numpy(found), net(images())[0])


@capability(alone=True)
def spawned_training():
    """A training step in a spawned process"""
    norm, module = in_a_process("spawn", train_there, network())
    assert module == type(network().model[6]).forward.__module__
    return norm


@capability(alone=True)
def forked():
    """A network handed to a forked process"""
    found = in_a_process("fork", predict_there, network().eval())
    equal(torch.from_numpy(found), network().eval()(images())[0], 1e-3)


@capability(alone=True)
def loader_workers():
    """A network within a Dataset that DataLoader's workers run"""

    class Features(torch.utils.data.Dataset):
        def __init__(self, stage):
            self.stage = stage

        def __len__(self):
            return 4

        def __getitem__(self, i):
            with torch.no_grad():
                return self.stage(maps(4, 128)[i : i + 1])[0]

    stage = network().eval().model[6]
    (batch,) = torch.utils.data.DataLoader(Features(stage), batch_size=4, num_workers=2)
    equal(batch, stage(maps(4, 128)))


READ = """
import sys, torch
from ultralytics import YOLO
net = YOLO(sys.argv[1]).model.float().eval()
torch.save(net(torch.load(sys.argv[2]))[0].detach(), sys.argv[3])
"""


@capability(alone=True)
def read_by_the_other_side():
    """A checkpoint is read by stock's Ultralytics, and stock's with the plugin: the same outputs"""
    from ultralytics import YOLO

    model = YOLO(YAML.format("n"))
    model.model.load_state_dict(network().state_dict())
    model.save("here.pt")
    torch.save(images(), "images.pt")
    other = {k: v for k, v in os.environ.items() if k != "YOLO12_PLUGIN"} | ({} if STOCK else {"YOLO12_PLUGIN": "off"})
    files = "here.pt", "images.pt", "there.pt"
    done = subprocess.run([sys.executable, "-c", READ, *files], env=other, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]
    equal(torch.load("there.pt"), YOLO("here.pt").model.float().eval()(images())[0], 1e-3)


@capability(alone=True)
def classes_imported_early():
    """Classes imported from Ultralytics before its models are the classes of the models"""
    orders = (
        "from ultralytics.nn.modules.block import A2C2f, AAttn, ABlock",
        "from ultralytics.nn.modules import A2C2f; from ultralytics.nn.modules.block import AAttn, ABlock",
        "from ultralytics.nn.tasks import A2C2f; from ultralytics.nn.modules.block import AAttn, ABlock",
    )
    code = """
from ultralytics import YOLO
stage = YOLO({yaml!r}).model.model[6]
assert isinstance(stage, A2C2f) and isinstance(stage.m[0][0], ABlock) and isinstance(stage.m[0][0].attn, AAttn)
"""
    for order in orders:
        child(order + code.format(yaml=YAML.format("n")))


@capability(alone=True)
def interpreter_options():
    """Python with -O, and warnings of syntax as errors"""
    code = f"from ultralytics import YOLO; YOLO({YAML.format('n')!r})"
    command = [sys.executable, "-O", "-W", "error::SyntaxWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]


EDITED = """
import sys, json
from ultralytics.nn.tasks import DetectionModel
net = DetectionModel(sys.argv[1], verbose=False)
print(json.dumps({"ran": hasattr(type(net.model[6]), "mine")}))
"""


@capability(alone=True)
def edited_by_the_user():
    """A2C2f edited in one's copy of Ultralytics runs, or is said to be replaced and how to keep it"""
    import ultralytics

    copy = Path("copy")
    shutil.copytree(
        Path(ultralytics.__file__).parent, copy / "ultralytics", ignore=shutil.ignore_patterns("__pycache__", "assets")
    )
    file = copy / "ultralytics/nn/modules/block.py"
    text = file.read_text()
    at = text.index("y = [self.cv1(x)]", text.index("class A2C2f"))
    file.write_text(text[:at] + "A2C2f.mine = True\n        " + text[at:])
    done = child(
        EDITED,
        YAML.format("n"),
        PYTHONPATH=os.pathsep.join([str(copy.resolve()), os.environ["PYTHONPATH"]]),
        YOLO_VERBOSE="true",
    )
    ran = json.loads(done.stdout.splitlines()[-1])["ran"]
    assert ran or "YOLO12_PLUGIN=off" in done.stdout + done.stderr


@capability(alone=True)
def threads_of_pytorch():
    """Results do not depend on the number of PyTorch's threads beyond rounding"""
    net = network().eval()
    found = []
    for threads in 1, 4:
        torch.set_num_threads(threads)
        with torch.no_grad():
            found.append(net(images(4, 96, 96))[0])
    equal(found[1], found[0], 1e-3)


@capability(alone=True)
def deterministic():
    """`torch.use_deterministic_algorithms(True)`: a training step, twice the same"""
    torch.use_deterministic_algorithms(True)
    found = []
    for _ in range(2):
        net = network().train()
        net(images())["boxes"].pow(2).mean().backward()
        found.append(attention(net).qkv.conv.weight.grad)
    assert torch.equal(*found)
