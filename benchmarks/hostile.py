"""What becomes of commands, drawings and downloads that are killed, ended, crowded, or have no disk or no home.

Each try is a fork of this process, which has imported what they take; what is tried at the start of a process is one of
its own. A try holds where every file under a final name is whole or as it was, and the next one ends well.
"""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnx
import requests  # noqa: F401 what downloads import, before they are forked
import torch
import ultralytics
from ultralytics import YOLO
from ultralytics.utils import SETTINGS, YAML
from ultralytics.utils.checks import check_yaml

import yolov12_plugin as y12
from yolov12_plugin.benchmark import bench as _bench  # noqa: F401 and commands
from yolov12_plugin.checkpoints import convert as _convert  # noqa: F401
from yolov12_plugin.checkpoints import weights
from yolov12_plugin.checkpoints.safe_load import read
from yolov12_plugin.cli import app
from yolov12_plugin.datasets import shapes
from yolov12_plugin.deploy import deepstream as _deepstream  # noqa: F401
from yolov12_plugin.deploy import triton as _triton  # noqa: F401
from yolov12_plugin.evaluate import score as _score  # noqa: F401
from yolov12_plugin.explain import heatmap as _heatmap  # noqa: F401
from yolov12_plugin.files import UNFINISHED
from yolov12_plugin.paper import training as _training  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
Row = dict[str, Any]
CROWDS = "convert", "drawing of shapes", "download"
HUNG = 600  # seconds, after which a try is ended by SIGALRM


class Work(NamedTuple):
    """What is run in a folder, and a check of what lies there then: it raises where something is not whole."""

    name: str
    run: Callable[[], object]
    check: Callable[[Path], None]
    result: str  # that is there when it has ended well
    command: bool = True


def command(*words: object) -> Callable[[], object]:
    return lambda: app([str(word) for word in words], prog_name="yolov12")


def works(inputs: Path, server: str) -> list[Work]:
    model, images, truth = (inputs / name for name in ("small.pt", "images", "truth.json"))
    small = "--imgsz", 64, "--device", "cpu"
    ablation = "paper", "ablation", "table2", "fraction=0.125", "--data", "shapes.yaml", "--variants", "n"
    tiny = "--epochs", 2, "--imgsz", 32, "--batch", 4, "--device", "cpu", "--out", "runs"
    data = {"names": dict(enumerate(("circle", "square", "triangle", "cross")))}

    def draw() -> None:
        shapes.make({"path": Path("shapes"), **data}, "detect", 64, 16)

    def download() -> None:
        os.environ["YOLO12_WEIGHTS_URL"] = server
        weights.SETTINGS = {"weights_dir": str(Path("weights").resolve())}
        weights.find("yolov12n.pt")

    coco = "coco", model, "--images", images, "--annotations", truth, *small, "--batch", 2, "--out", "detections.json"
    return [
        Work("convert", command("convert", model, "out.pt", "--to", "stock", "--force"), checkpoints, "out.pt"),
        Work("coco", command(*coco), documents, "detections.json"),
        Work(
            "bench",
            command("bench", model, "--runtime", "torch,onnxruntime", *small, "--runs", 9, "--out", "bench.json"),
            documents,
            "bench.json",
        ),
        Work(
            "paper ablation",
            command(*ablation, *tiny),
            documents,
            "runs/results.json",
        ),
        Work("heatmap", command("heatmap", model, images, *small, "--out", "maps"), pictures, "maps/0.png"),
        Work(
            "export-triton",
            command("export-triton", model, "repository", "--imgsz", 64, "--force"),
            served,
            "repository/small/config.pbtxt",
        ),
        Work(
            "export-deepstream",
            command("export-deepstream", model, "deepstream", "--imgsz", 64, "--force"),
            served,
            "deepstream/config_infer_primary_small.txt",
        ),
        Work("drawing of shapes", draw, drawn, "shapes", command=False),
        Work("download", download, checkpoints, "weights/yolov12n.pt", command=False),
    ]


def final(folder: Path, pattern: str) -> Iterator[Path]:
    """Files under names of their own: what is not whole yet lies in hidden folders."""
    return (f for f in folder.rglob(pattern) if not any(p.startswith(UNFINISHED) for p in f.relative_to(folder).parts))


def checkpoints(folder: Path) -> None:
    for file in final(folder, "*.pt"):
        read(file)


def documents(folder: Path) -> None:
    for file in final(folder, "*.json"):
        json.loads(file.read_text(encoding="utf-8"))


def pictures(folder: Path) -> None:
    for file in final(folder, "*.png"):
        assert file.read_bytes().endswith(b"IEND\xaeB`\x82") and cv2.imread(str(file)) is not None, f"{file} is torn"


def served(folder: Path) -> None:
    """A configuration names graphs that are there."""
    for file in final(folder, "*.onnx"):
        onnx.checker.check_model(str(file))
    for file in *final(folder, "config.pbtxt"), *final(folder, "config_infer*.txt"):
        assert file.read_text(encoding="utf-8").endswith("\n"), f"{file} is torn"
        assert next(final(file.parent, "*.onnx"), None), f"{file} is there without its graph"


def drawn(folder: Path) -> None:
    """Ultralytics takes a dataset whose images/val is there for whole."""
    pictures(folder)
    if (folder / "shapes/images/val").exists():
        counts = [len(list((folder / "shapes" / part).glob("*/*"))) for part in ("images", "labels")]
        assert counts == [80, 80], f"{counts} of 80"


def started(work: Work, folder: Path, words: Path | None = None) -> int:
    """The number of a process that does some work in a folder; its words go to another, by default the parent."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        os.setsid()
        signal.alarm(HUNG)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background process ignores
        os.chdir(folder)
        tempfile.tempdir = str(words or folder.parent)
        for stream, name in (1, "out"), (2, "err"):
            os.dup2(os.open(Path(tempfile.tempdir, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        work.run()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException as e:
        os.write(2, f"{type(e).__name__}: {e}\n".encode())
    finally:
        os._exit(code)


def ended(number: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        (Path(root) / "here").mkdir()
        yield Path(root) / "here"


def state(work: Work, folder: Path) -> str:
    """What is left of some work: nothing, all, or what is wrong."""
    try:
        work.check(folder)
    except Exception as e:
        return f"broken: {e}"
    return "whole" if (folder / work.result).exists() else "nothing"


def timed(work: Work) -> float:
    with place() as folder:
        begin = time.monotonic()
        if code := ended(started(work, folder)):
            sys.exit(f"Error: {work.name} ends by {code} undisturbed\n{(folder.parent / 'err').read_text()[-3000:]}")
        return time.monotonic() - begin


def row(fault: str, what: str, outcomes: Sequence[tuple[bool, str]], **more: Any) -> Row:
    """A row of the record, and its line on the standard error."""
    found = {
        "fault": fault,
        "what": what,
        "tries": len(outcomes),
        "held": sum(held for held, _ in outcomes),
        "outcomes": dict(Counter(outcome for _, outcome in outcomes).most_common()),
    }
    print({**found, **more}, file=sys.stderr, flush=True)
    return found | more


def killed(work: Work, seconds: float, tries: int, dice: random.Random) -> Row:
    """kill -9, again and again in one folder, and all that is done there at last.

    Each second time the result is there already. It is killed at a random moment, or as it begins to write.
    """
    outcomes, left_behind = [], 0
    with place() as folder:
        for i in range(tries):
            if i % 2 == 0:
                discard(folder / Path(work.result).parts[0])
            number = started(work, folder)
            if i % 4 < 2:
                time.sleep(dice.uniform(0, seconds))
            else:
                wait_for_writing(number, folder)
                time.sleep(dice.uniform(0, 0.02))
            with suppress(ProcessLookupError):
                os.killpg(number, signal.SIGKILL)
            code = ended(number)
            left = state(work, folder)
            for unfinished in folder.rglob(f"{UNFINISHED}*"):
                left_behind += 1
                shutil.rmtree(unfinished)
            outcomes.append((not left.startswith("broken"), f"{'killed' if code else 'ended before'}: {left}"))
        code = ended(started(work, folder))
        outcomes.append(
            (code == 0 and state(work, folder) == "whole", f"the next run ends by {code}: {state(work, folder)}")
        )
    return row("kill -9", work.name, outcomes, unfinished_folders=left_behind)


def wait_for_writing(number: int, folder: Path) -> None:
    """Until what is not whole yet lies in a folder, or a process is about to be waited for."""
    with suppress(ChildProcessError, FileNotFoundError):  # a folder may be moved just now
        while not next(folder.rglob(f"{UNFINISHED}*"), None):
            if os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
            time.sleep(0.001)


def discard(result: Path) -> None:
    if result.is_dir():
        shutil.rmtree(result)
    result.unlink(missing_ok=True)


def interrupted(work: Work, seconds: float, tries: int, number: signal.Signals, dice: random.Random) -> Row:
    """A signal that asks for the end."""
    outcomes = []
    for _ in range(tries):
        with place() as folder:
            child = started(work, folder)
            time.sleep(dice.uniform(0.2, 0.9) * seconds)
            os.kill(child, number)
            code = ended(child)
            left, said = state(work, folder), (folder.parent / "err").read_text().splitlines()[-1:]
            expected = 130 if number == signal.SIGINT else 143
            ok = not left.startswith("broken") and code in (0, expected)
            ok &= code == 0 or (bool(said) and said[0].startswith("Interrupted"))
            outcomes.append((ok, f"{code}: {left}"))
    return row(number.name, work.name, outcomes)


def crowded(work: Work, count: int) -> Row:
    """Many processes that do the same in one folder at once."""
    with place() as folder:
        numbers = [started(work, folder) for _ in range(count)]
        codes = [ended(number) for number in numbers]
        left = state(work, folder)
        hidden = list(folder.rglob(f"{UNFINISHED}*"))
    outcomes = [(code == 0 and left == "whole" and not hidden, f"{code}: {left}") for code in codes]
    return row(f"{count} processes at once", work.name, outcomes)


@contextmanager
def mounted(options: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as root:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", root], check=True)
        try:
            (Path(root) / "here").mkdir()
            yield Path(root) / "here"
        finally:
            subprocess.run(["umount", "-l", root], check=True)


def disk(work: Work) -> Iterator[Row]:
    """A disk that is full after some kilobytes, and one that is read-only; file systems of their own."""
    for size in 8, 64, 512:
        with mounted(f"size={size}k") as folder:
            yield row(f"disk of {size} KB", work.name, [fails(work, folder)])
    with mounted("size=64m") as folder:
        subprocess.run(["mount", "-o", "remount,ro", folder.parent], check=True)
        yield row("read-only file system", work.name, [fails(work, folder)])


def fails(work: Work, folder: Path) -> tuple[bool, str]:
    """It fails in one line, and leaves nothing that is not whole; or ends well where there was room enough."""
    with tempfile.TemporaryDirectory() as words:  # which need no room on that disk
        code = ended(started(work, folder, Path(words)))
        said = (Path(words) / "err").read_text().splitlines()
    left, last = state(work, folder), "".join(said[-1:])
    ok = not left.startswith("broken") and (code == 0 or "Traceback" not in "".join(said))
    for place, name in (f"{folder}/", ""), (f"{folder}", "."):
        last = last.replace(place, name)
    return ok, f"{code}: {left}" + (f": {last[:160]}" if code else "")


def started_oddly(model: Path) -> Iterator[Row]:
    """Processes of their own: a prediction by the stock command, and doctor; the same of stock with the plugin off."""
    picture = model.parent / "images/0.jpg"
    entry = "import sys; from ultralytics.cfg import entrypoint; entrypoint()"
    predict = ["-c", entry, "predict", f"source={picture}", "imgsz=64", "device=cpu"]
    off = [*predict, "model=yolo12n.yaml"], {"YOLO12_PLUGIN": "off"}
    on = [*predict, f"model={model}"], {}
    doctor = ["-m", "yolov12_plugin", "doctor", str(model)], {}
    odd: dict[str, tuple[list[str], dict[str, str | None]]] = {
        "no HOME": ([], {"HOME": None, "YOLO_CONFIG_DIR": None}),
        "a HOME that is not there": ([], {"HOME": "/proc/none", "YOLO_CONFIG_DIR": None}),
        "settings folder that cannot be written": ([], {"YOLO_CONFIG_DIR": "/proc/none"}),
        "LANG=C": ([], {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        "output in ASCII": ([], {"PYTHONIOENCODING": "ascii"}),
        "output in cp1252": ([], {"PYTHONIOENCODING": "cp1252"}),
        "-OO": (["-OO"], {}),
        "-W error": (["-W", "error"], {}),
    }
    for fault, (flags, changes) in odd.items():
        outcomes = {}
        for what, (words, more) in {"stock, plugin off": off, "predict": on, "doctor": doctor}.items():
            with place() as folder:
                env = {k: v for k, v in (os.environ | changes | more).items() if v is not None}
                done = subprocess.run([sys.executable, *flags, *words], cwd=folder, env=env, capture_output=True)
                last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] if done.returncode else []
                outcomes[what] = done.returncode, ": ".join([str(done.returncode), *(line[:160] for line in last)])
        stock = outcomes.pop("stock, plugin off")
        for what, (code, outcome) in outcomes.items():
            yield row(fault, what, [(code == 0 or stock[0] != 0, outcome)], stock=stock[1])


def threads(seconds: float = 20.0, count: int = 8) -> Row:
    """Threads that predict while another changes the attention's backend: outputs are what they were alone."""
    net: Any = YOLO("yolov12n.yaml").model.eval()
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net(x)[0]
    end, outcomes, changes = time.monotonic() + seconds, [], 0

    def predict() -> None:
        with torch.no_grad():
            while time.monotonic() < end:
                off = (net(x)[0] - expected).abs().max().item() / expected.abs().max().item()
                outcomes.append((off < 1e-4, "as alone" if off < 1e-4 else f"off by {off:.1e}"))

    workers = [threading.Thread(target=predict) for _ in range(count)]
    for worker in workers:
        worker.start()
    while time.monotonic() < end:
        for name in "math", "sdpa", "auto":
            y12.attention_backend(name)
            changes += 1
            time.sleep(0.002)
    for worker in workers:
        worker.join()
    return row(f"{count} threads, another changes the backend", "predictions", outcomes, changes=changes)


def prepare(inputs: Path) -> None:
    """A small checkpoint that detects, images and their ground truth in COCO's format, and a release to download."""
    torch.manual_seed(0)
    model = YOLO("yolov12n.yaml", verbose=False)
    for layers in model.model.model[-1].cv3:
        layers[-1].bias.data[::5] += 9
    model.model.names = YAML.load(check_yaml("coco8.yaml"))["names"]
    model.save(inputs / "small.pt")
    (inputs / "v1.0").mkdir()
    shutil.copy(inputs / "small.pt", inputs / "v1.0/yolov12n.pt")
    (inputs / "images").mkdir()
    noise, images, boxes = np.random.default_rng(0), [], []
    for i in range(12):
        cv2.imwrite(str(inputs / f"images/{i}.jpg"), noise.integers(0, 255, (96, 128, 3), dtype=np.uint8))
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 128, "height": 96})
        boxes.append({"id": i + 1, "image_id": i, "category_id": 1, "bbox": [5, 5, 40, 30], "area": 1200, "iscrowd": 0})
    truth = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "person"}]}
    (inputs / "truth.json").write_text(json.dumps(truth), encoding="utf-8")


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Who asked was killed."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ends", type=int, default=5, help="Of each command by each of SIGINT and SIGTERM.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="*", default=("kills", "ends", "crowds", "disks", "starts", "threads"))
    parser.add_argument("--works", nargs="*", help="By the first word of their names; all.")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/hostile.json")
    args = parser.parse_args()
    os.environ |= {"YOLO_VERBOSE": "false", "YOLO_AUTOINSTALL": "false"}
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    dice = random.Random(args.seed)
    versions = {"python": platform.python_version(), "ultralytics": ultralytics.__version__, "torch": torch.__version__}
    record: dict[str, Any] = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {"rows": []}

    def keep(*rows: Row) -> None:
        """Beside what other parts of the run found."""
        new = {(r["fault"], r["what"]): r for r in rows}
        record["rows"] = [r for r in record["rows"] if (r["fault"], r["what"]) not in new] + list(rows)
        args.out.write_text(json.dumps(record | versions, indent=2) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as root:
        inputs = Path(root)
        prepare(inputs)
        SETTINGS.update({"datasets_dir": str(inputs / "datasets"), "runs_dir": str(inputs / "runs")})
        server = Server(("127.0.0.1", 0), lambda *a: Quiet(*a, directory=root))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        known = {work.name.split()[0]: work for work in works(inputs, f"http://127.0.0.1:{server.server_port}")}
        for work in map(known.__getitem__, known if args.works is None else args.works):
            seconds = timed(work)
            print(f"{work.name}: {seconds:.1f} s", file=sys.stderr, flush=True)
            if "kills" in args.parts:
                keep(killed(work, seconds, args.kills, dice))
            for number in (signal.SIGINT, signal.SIGTERM) if "ends" in args.parts and work.command else ():
                keep(interrupted(work, seconds, args.ends, number, dice))
            if "crowds" in args.parts and work.name in CROWDS:
                keep(crowded(work, 20))
            for found in disk(work) if "disks" in args.parts and work.name != "paper ablation" else ():
                keep(found)
        for found in started_oddly(inputs / "small.pt") if "starts" in args.parts else ():
            keep(found)
    if "threads" in args.parts:
        keep(threads())
    sys.exit(any(r["held"] < r["tries"] for r in record["rows"]))


if __name__ == "__main__":
    main()
