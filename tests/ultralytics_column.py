"""A column of `ultralytics_suite.py`, inside its processes: its files, and the pytest plugin that records its tests."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

FAMILY = {"off": "yolo12", "on": "yolov12"}
ENDED = "the process ended within it"

Results = dict[str, dict[str, str]]

# What a label file of each data set says; the images are Ultralytics' own two.
BOX, POLYGON = "0.5 0.5 0.4 0.4", "0.3 0.3 0.7 0.3 0.7 0.7 0.3 0.7"
LABELS = {
    "coco8": f"0 {BOX}",
    "coco8-grayscale": f"0 {BOX}",
    "coco8-multispectral": f"0 {BOX}",
    "coco8-pose": f"0 {BOX}" + " 0.5 0.5 2" * 17,
    "coco8-seg": f"0 {POLYGON}",
    "coco128": f"0 {BOX}",
    "coco128-seg": f"0 {POLYGON}",
    "dota8": f"0 {POLYGON}",
    "cityscapes8": "",
    "depth8": "",
}


def renamed(text: str, family: str) -> str:
    """The text with another family's YAMLs and checkpoints in place of those of Ultralytics' tests."""
    name = r"\byolo\d\d(?=[ns](?:-(?:seg|cls|pose|obb|grayscale))?\.(?:pt|yaml|onnx|torchscript))"
    return re.sub(name, family, text)


def prepare(family: str) -> None:
    """Settings, checkpoints, data and videos of a column, written from within its environment."""
    from ultralytics.cfg import TASK2MODEL
    from ultralytics.utils import SETTINGS

    home = Path.cwd().parent
    SETTINGS.update({f"{kind}_dir": str(home / kind) for kind in ("datasets", "weights", "runs")} | {"sync": False})
    weights = home / "weights"
    (weights / "path with spaces").mkdir(parents=True)
    for name in TASK2MODEL.values():
        save_checkpoint(renamed(name, family), weights)
        if renamed(name, family) != name:  # a default of Ultralytics
            shutil.copy(weights / renamed(name, family), weights / name)
    for task in ("", "-seg", "-pose", "-obb"):  # teachers
        save_checkpoint(f"{family}s{task}.pt", weights)
    save_checkpoint(f"{family}n.pt", weights, "-grayscale", channels=1)
    shutil.copy(weights / f"{family}n.pt", weights / "path with spaces")
    write_data(home / "datasets")
    write_videos(weights / "solution_assets", weights / f"{family}n.pt")


def save_checkpoint(name: str, folder: Path, suffix: str = "", channels: int = 3) -> None:
    """A checkpoint of seeded weights that finds something in every picture, as the published ones do."""
    import torch
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    yaml = Path(name).stem + ".yaml"
    model = YOLO(yaml)
    if channels != 3:
        net = DetectionModel(yaml, ch=channels, verbose=False)
        net.args, net.task = model.model.args, model.task
        model.model = net
    head = model.model.model[-1]
    if hasattr(head, "cv3"):  # of boxes: the first class, on the coarsest map alone
        torch.nn.init.constant_(head.cv3[-1][-1].bias[:1], 2.0)
    model.ckpt = {"train_args": {"imgsz": 640, "task": model.task}}
    model.save(folder / f"{Path(name).stem}{suffix}.pt")


def write_data(folder: Path) -> None:
    """The small data sets that the tests name, where Ultralytics looks before it downloads."""
    import cv2
    import numpy as np
    from ultralytics.data.converter import convert_to_multispectral
    from ultralytics.utils import ASSETS, ROOT, YAML

    pictures = [cv2.resize(cv2.imread(str(ASSETS / name)), (160, 128)) for name in ("bus.jpg", "zidane.jpg")]
    halves = np.repeat([[7], [8]], 64, axis=0).repeat(160, axis=1)  # road and pavement of Cityscapes
    maps = {"masks": halves.astype(np.uint8), "depth": (halves * 500).astype(np.uint16)}
    for name, label in LABELS.items():
        file = ROOT / "cfg/datasets" / f"{name}.yaml"
        if not file.exists():
            continue
        data = YAML.load(file)
        for split in {data["train"], data["val"]}:
            images = folder / data["path"] / split
            kind = {"cityscapes8": "masks", "depth8": "depth"}.get(name, "labels")
            targets = folder / data["path"] / split.replace("images", kind)
            images.mkdir(parents=True)
            targets.mkdir(parents=True)
            for i in range(4):
                cv2.imwrite(str(images / f"{i}.jpg"), pictures[i % 2])
                if kind == "labels":
                    (targets / f"{i}.txt").write_text(f"{label}\n")
                else:
                    cv2.imwrite(str(targets / f"{i}.png"), maps[kind])
            if "multispectral" in name:
                convert_to_multispectral(images, n_channels=10, replace=True)
    for split in ("train", "val"):
        for i in range(10):
            images = folder / "imagenet10" / split / f"n{i:08}"
            images.mkdir(parents=True)
            cv2.imwrite(str(images / "0.jpg"), pictures[i % 2])


def write_videos(folder: Path, model: Path) -> None:
    """The pictures, videos and model of the tests of Ultralytics' solutions."""
    import cv2
    from ultralytics.utils import ASSETS

    import tests

    folder.mkdir()
    picture = cv2.resize(cv2.imread(str(ASSETS / "zidane.jpg")), (640, 360))
    for name in getattr(tests, "SOLUTION_ASSETS", {}).values():
        file = folder / name
        if file.suffix in (".mp4", ".mov"):
            video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 10, (640, 360))
            for _ in range(6):
                video.write(picture)
            video.release()
        elif file.suffix == ".json":
            file.write_text(json.dumps([{"points": [[100, 100], [300, 100], [300, 300], [100, 300]]}]))
        elif file.suffix in (".jpg", ".pt"):
            shutil.copy(model if file.suffix == ".pt" else ASSETS / "bus.jpg", file)


def column_file() -> Path:
    return Path(os.environ["ULTRALYTICS_SUITE_RESULTS"])


def common_name(nodeid: str) -> str:
    """The name of a test in both columns."""
    return nodeid.replace(FAMILY["on"], FAMILY["off"]).removeprefix("tests/")


def record(nodeid: str, outcome: str, why: str, seconds: float = 0) -> None:
    line = {"test": common_name(nodeid), "outcome": outcome, "why": why, "seconds": f"{seconds:.1f}"}
    with column_file().open("a") as file:
        file.write(json.dumps(line) + "\n")


def pytest_load_initial_conftests() -> None:
    """Before the tests read it, the table that their constants come from is of the column's family."""
    from ultralytics.cfg import TASK2MODEL

    family = os.environ["ULTRALYTICS_SUITE_FAMILY"]
    TASK2MODEL.update({task: renamed(name, family) for task, name in TASK2MODEL.items()})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what a process before this one began, and keep the wanted ones alone where there are such."""
    begun, wanted = read(column_file()), json.loads(os.environ["ULTRALYTICS_SUITE_WANTED"])
    names = {item: common_name(item.nodeid) for item in items}
    items[:] = [i for i in items if names[i] not in begun and (not wanted or names[i] in wanted)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """Equal seeds and an end for every test: the exception is none that a test's `except Exception` takes."""
    from ultralytics.utils.torch_utils import init_seeds

    limit = int(os.environ["ULTRALYTICS_SUITE_LIMIT"])
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"no end after {limit} s", pytrace=False))
    init_seeds()
    signal.setitimer(signal.ITIMER_REAL, limit, 10)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def pytest_runtest_logstart(nodeid: str) -> None:
    record(nodeid, "failed", ENDED)  # until its report comes


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:
        errors = [line[1:].strip() for line in report.longreprtext.splitlines() if line.startswith("E ")]
        why = (errors or [report.longreprtext.strip()])[0][:300]
        record(report.nodeid, report.outcome, why, report.duration)


def read(file: Path) -> Results:
    """The last result of every test."""
    lines = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    return {line["test"]: line for line in lines}
