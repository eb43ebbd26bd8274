"""Checkpoints on the Hugging Face Hub: tensors as safetensors, the rest as JSON, so that loading executes nothing."""

import datetime
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import ultralytics
from torch import Tensor, nn

from yolov12_plugin import __version__
from yolov12_plugin.checkpoints.grammar import checked, checked_arguments
from yolov12_plugin.checkpoints.inspect import Bounded, describe
from yolov12_plugin.checkpoints.layouts import describe_in_yaml
from yolov12_plugin.checkpoints.safe_load import models_of, read
from yolov12_plugin.checkpoints.weights import cache, find
from yolov12_plugin.errors import CheckpointError, NotRunnable, first_line, shown
from yolov12_plugin.files import write_checkpoint
from yolov12_plugin.nets import attention_blocks, is_classifier, task_of
from yolov12_plugin.process import same_activation, seeded

if TYPE_CHECKING:
    from ultralytics import YOLO

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
ARGUMENTS = ("imgsz", "data", "single_cls")  # of a training, which Ultralytics goes by when it loads a model
LARGEST_CONFIG = 2**20
CLASSES, LETTERS = 100_000, 200  # that a config may name, and of a name
# The Hub's names of what a model is for.
PIPELINES = {"segment": "image-segmentation", "classify": "image-classification", "pose": "keypoint-detection"}


def push(
    model: "YOLO | str | os.PathLike[str]",
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
) -> str:
    """Upload a model to the Hugging Face Hub as safetensors, with a card made of it; `pull` gets it from there.

    Before anything is sent the model is built anew from what is sent, and has to have the same tensors. Its optimizer
    and the arguments of its training stay here, but for the size of the images and the name of the dataset.

    Args:
        model: a `YOLO`, or a checkpoint, of which nothing is executed.
        repo_id: the repository, as org/name; it is made where there is none.
        private: make a new one that others do not see; by default as the organisation has it.
        token: of the Hub; the one that `hf auth login` saved by default.
        revision: the branch, made where there is none; main by default.

    Returns:
        The URL of the commit.

    Raises:
        CheckpointError: the model is no checkpoint, or fused, quantised, pruned or otherwise not what its YAML builds.
        NotRunnable: huggingface_hub is not installed.
        OSError: the Hub cannot be reached, or refuses it.

    Examples:
        >>> import yolov12_plugin as y12
        >>> y12.push("best.pt", "org/name", private=True)  # doctest: +SKIP
    """
    _require()
    from huggingface_hub import HfApi
    from safetensors.torch import save_file

    net, ckpt, where = _source(model)
    describe_in_yaml(net)
    tensors = {name: _exact(t.detach().cpu()) for name, t in net.state_dict().items()}
    config = _config(net, where)
    _rebuilt(config, tensors, where)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (folder / CARD).write_text(_card(net, ckpt, config, repo_id), encoding="utf-8")
        api = HfApi(token=token, library_name="yolov12-plugin", library_version=__version__)
        with _one_line(f"{where} was not pushed to {repo_id}"):
            api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            message = f"{config['task']} model by yolov12-plugin {__version__}"
            done = api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message)
    return str(done.commit_url)


def pull(repo_id: str, *, token: str | bool | None = None, revision: str | None = None) -> "YOLO":
    """Download a model that `push` uploaded: a `YOLO` that predicts, trains on, exports and saves as any other.

    Nothing of the repository is executed: the model is built from a YAML of what a YAML may say, and gets its tensors
    from safetensors. It is then a plain checkpoint in Ultralytics' weights folder, below `hub`.

    Args:
        repo_id: the repository, as org/name.
        token: of the Hub, for what is private; the one that `hf auth login` saved by default.
        revision: a branch, a tag or a commit; main by default.

    Raises:
        CheckpointError: the repository holds something else than `push` uploads.
        NotRunnable: huggingface_hub is not installed.
        OSError: the Hub cannot be reached, or has no such repository, revision or file.

    Examples:
        >>> import yolov12_plugin as y12
        >>> model = y12.pull("org/name")  # doctest: +SKIP
        >>> model.predict("bus.jpg")  # doctest: +SKIP
    """
    _require()
    from huggingface_hub import hf_hub_download
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from ultralytics import YOLO

    with _one_line(f"{repo_id} was not pulled"):
        config_file = Path(hf_hub_download(repo_id, CONFIG, revision=revision, token=token))
        commit = config_file.parent.name  # so that both files are of one
        file = hf_hub_download(repo_id, WEIGHTS, revision=commit, token=token)
    config = _read_config(config_file, repo_id)
    try:
        tensors = load_file(file)
    except SafetensorError as e:
        raise CheckpointError(f"{repo_id}/{WEIGHTS} cannot be read ({first_line(e)}): pull it again") from e
    net = _rebuilt(config, tensors, repo_id)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    ckpt = {"model": net, "train_args": config["train_args"], "date": now, "version": ultralytics.__version__}
    place = cache() / "hub" / f"{repo_id.replace('/', '--')}-{commit[:8]}.pt"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(place, ckpt)
    return YOLO(place)


def _require() -> None:
    for module in ("huggingface_hub", "safetensors"):
        if find_spec(module) is None:
            raise NotRunnable(f'{module} is not installed: pip install "yolov12-plugin[hub]"')


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Say of what the Hub answers, in many lines, what failed and what to do."""
    try:
        yield
    except Exception as e:  # its releases have their errors of several libraries
        todo = "check the name, and run `hf auth login` if it is private or yours"
        raise OSError(f"{what} ({shown(str(e), 240)}): {todo}") from e


def _source(model: Any) -> tuple[Any, dict[str, Any], str]:
    """A network in FP32, its checkpoint where it has one, and what it is called."""
    if isinstance(model, (str, os.PathLike)):
        path = Path(find(model))
        ckpt = read(path)
        return models_of(ckpt)[0].float(), ckpt, str(path)
    net = getattr(model, "model", None)
    if not isinstance(net, nn.Module) or not hasattr(net, "yaml"):
        raise CheckpointError(f"a {type(model).__name__} is no model of PyTorch: give a YOLO, or the path of a .pt")
    d: Any = net.yaml
    where = getattr(model, "ckpt_path", None) or d.get("yaml_file", "the model")
    return net, getattr(model, "ckpt", None) or {}, where


def _exact(t: Tensor) -> Tensor:
    """A tensor in half precision where that is the same, as in what Ultralytics saves."""
    half = t.half()
    is_same = t.dtype == torch.float32 and torch.equal(half.float(), t)
    return (half if is_same else t).clone(memory_format=torch.contiguous_format)  # no two may share their memory


def _config(net: Any, where: str) -> dict[str, Any]:
    """What `_rebuilt` needs beside the tensors."""
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules()):
        raise CheckpointError(f"{where} is fused, as by a prediction: push the .pt file, or a YOLO that is loaded anew")
    try:
        d, _ = checked(net.yaml)
    except ValueError as e:
        raise CheckpointError(f"{where} has a YAML that {e}, from which nothing can be built elsewhere") from e
    if "yaml_file" in d:
        d["yaml_file"] = PurePath(d["yaml_file"].replace("\\", "/")).name
    args = getattr(net, "args", None) or {}
    args = vars(args) if isinstance(args, SimpleNamespace) else dict(args)
    used = {key: args[key] for key in ARGUMENTS if args.get(key) is not None}
    if "data" in used:
        used["data"] = PurePath(str(used["data"]).replace("\\", "/")).name
    return {
        "yolov12_plugin": __version__,
        "ultralytics": ultralytics.__version__,
        "task": getattr(net, "task", None) or task_of(net),
        "yaml": d,
        "names": {str(i): str(name) for i, name in _named(net).items()},
        "train_args": checked_arguments(used)[0],
    }


def _named(net: Any) -> dict[int, str]:
    names = getattr(net, "names", None) or {}
    return names if isinstance(names, dict) else dict(enumerate(names))


def _read_config(file: Path, repo_id: str) -> dict[str, Any]:
    """The config of a repository, made anew of what it may say.

    Raises:
        CheckpointError: it says something else.
    """
    wrong = f"{repo_id}/{CONFIG} is none of yolov12_plugin.push"
    if file.stat().st_size > LARGEST_CONFIG:
        raise CheckpointError(f"{wrong}: it is larger than {LARGEST_CONFIG >> 20} MB")
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        task, names, args = given["task"], given["names"], given["train_args"]
        d, _ = checked(given["yaml"])
        is_named = [name.isdecimal() and type(text) is str and text.isprintable() for name, text in names.items()]
        if not all(is_named) or len(names) > CLASSES or any(len(text) > LETTERS for text in names.values()):
            raise ValueError("names are no texts by number")
        kept, left_out, paths = checked_arguments({key: args[key] for key in ARGUMENTS if key in args})
        if left_out or paths:
            raise ValueError(f"train_args has {', '.join(paths) or left_out[0]}")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as e:
        raise CheckpointError(f"{wrong}: {shown(first_line(e), 200)}") from e
    return {"task": task, "yaml": d, "names": names, "train_args": kept}


def _rebuilt(config: dict[str, Any], tensors: dict[str, Tensor], where: str) -> Any:
    """The network that a config describes, with tensors.

    Raises:
        CheckpointError: its tensors are other ones.
    """
    from ultralytics import YOLO
    from ultralytics.data.augment import classify_transforms

    task, d = config["task"], config["yaml"]
    kinds = YOLO.__new__(YOLO).task_map
    if type(task) is not str or task not in kinds:
        raise CheckpointError(f"{where} is for task {shown(task)}, and there are {', '.join(kinds)}")
    bounded = Bounded()  # by what the tensors take: making, filling and one small image
    bounded.BYTES, bounded.OPERATIONS = 2**28 + 16 * sum(t.nbytes for t in tensors.values()), 100_000
    try:
        with seeded(), same_activation(), bounded:
            net = kinds[task]["model"](d, ch=d.get("channels", 3), nc=d.get("nc"), verbose=False)
        wanted = net.state_dict()
        if wrong := [name for name in wanted | tensors if shape(wanted, name) != shape(tensors, name)]:
            first = f"{wrong[0]} {shape(tensors, wrong[0])}, not {shape(wanted, wrong[0])}"
            raise ValueError(f"its YAML builds other tensors, {len(wrong)} differ: {shown(first, 120)}")
        if bad := [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]:
            raise ValueError(f"NaN or infinite values in {len(bad)} tensors, the first is {bad[0]}")
        net.load_state_dict(tensors)
    except Exception as e:  # of whatever a YAML leads Ultralytics' parser to
        raise CheckpointError(f"{where} cannot be built from its YAML ({shown(first_line(e), 240)})") from e
    net.names = {int(i): name for i, name in config["names"].items()}
    net.args, net.task = dict(config["train_args"]), task
    if is_classifier(net.model[-1]):
        net.transforms = classify_transforms(config["train_args"].get("imgsz", 224))
    return net.eval()


def shape(tensors: dict[str, Tensor], name: str) -> list[int] | None:
    return list(tensors[name].shape) if name in tensors else None


def _card(net: Any, ckpt: dict[str, Any], config: dict[str, Any], repo_id: str) -> str:
    """The model card: what the checkpoint holds, and how it is used."""
    from huggingface_hub import ModelCardData

    task, args, names = config["task"], config["train_args"], config["names"]
    about: dict[str, Any] = {"Task": task}
    if attention_blocks(net):
        found = describe(net, ckpt)
        layout = found["layout"]
        about |= {
            "Model": f"YOLOv12-{found['scale'].upper()}, {found['release']} layout",
            "Residual": layout["residual"] or "none",
            "Areas": ", ".join(map(str, layout["areas"])),
        }
    about["Parameters"] = f"{sum(p.numel() for p in net.parameters()):,}"
    about["Image size"] = args.get("imgsz", "as Ultralytics' default")
    about["Dataset"] = args.get("data", "not recorded")
    about["Classes"] = f"{len(names)}: {', '.join(list(names.values())[:100])}{', ...' if len(names) > 100 else ''}"
    metrics = ckpt.get("train_metrics")
    for key, value in metrics.items() if isinstance(metrics, dict) else ():
        if key.startswith("metrics/") and isinstance(value, float):
            about[key.removeprefix("metrics/")] = f"{value:.4f}, as its training found on its validation images"
    about["Made with"] = f"Ultralytics {config['ultralytics']}, yolov12-plugin {__version__}"
    data = ModelCardData(
        license="agpl-3.0",
        library_name="ultralytics",
        pipeline_tag=PIPELINES.get(task, "object-detection"),
        tags=["yolov12", "yolov12-plugin", task],
    )
    rows = "\n".join(f"| {key} | {_cell(value)} |" for key, value in about.items())
    return f"""---
{data.to_yaml()}
---

# {repo_id.rpartition("/")[2]}

| | |
|---|---|
{rows}

```bash
pip install "yolov12-plugin[hub]"
```

```python
import yolov12_plugin as y12

model = y12.pull("{repo_id}")
model.predict("image.jpg")
```

The weights are in `{WEIGHTS}` and the structure is in `{CONFIG}`. Loading them executes nothing of this repository.
"""


def _cell(value: Any) -> str:
    """A text in a cell of Markdown, where it is nothing but text."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>|#!" else c for c in shown(str(value), 4000))
