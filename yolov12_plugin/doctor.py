"""What is installed here, what the plugin makes of it, and what is wrong with it, each with its remedy."""

import importlib
import os
import pkgutil
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yolov12_plugin
from yolov12_plugin import autoload, names, ownership, patching, registry
from yolov12_plugin.errors import NotRunnable, choices, first_line

# PyTorch and Ultralytics are imported where they are asked about: that they fail is a finding too.

LEVELS = ("error", "warning", "note", "ok")  # the most severe first


class Finding(NamedTuple):
    """What was found, how severe it is (one of `LEVELS`), and what to do about it: nothing where all is well."""

    level: str
    what: str
    remedy: str = ""


class Package(NamedTuple):
    """An optional package: what it is for, and the command that installs it."""

    name: str
    purpose: str
    install: str
    module: str = ""  # is looked for where it comes without metadata, or in part
    others: tuple[str, ...] = ()  # distributions that bring the same module


EXPORT = 'pip install "yolov12-plugin[export]"'
# fmt: off
PACKAGES = (
    Package("flash-attn", "FlashAttention-2", "pip install flash-attn --no-build-isolation"),
    Package("flash-attn-3", "FlashAttention-3",
            'pip install --no-build-isolation "git+https://github.com/Dao-AILab/flash-attention#subdirectory=hopper"',
            "flash_attn_interface"),
    Package("flash-attn-4", "FlashAttention-4", "pip install --pre flash-attn-4"),
    Package("onnx", "exports to ONNX and TensorRT", EXPORT, "onnx"),
    Package("onnxruntime", "runs ONNX files", EXPORT, "onnxruntime",
            ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")),
    Package("onnxslim", "simplifies ONNX files", EXPORT, "onnxslim"),
    Package("openvino", "exports to OpenVINO and runs it", EXPORT, "openvino"),
    Package("tensorrt", "builds and runs engines on NVIDIA GPUs", 'pip install tensorrt, or "tensorrt<11" for a T4',
            "tensorrt", ("tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings")),
    Package("tensorrt-rtx-cu13", "yolov12 bench --aot compiles for a GPU that is not here",
            'pip install "yolov12-plugin[tensorrt-rtx]"', "tensorrt_rtx"),
    Package("pycocotools", "AP by yolov12 coco", 'pip install "yolov12-plugin[coco]"', "pycocotools"),
    Package("faster-coco-eval", "a second opinion in yolov12 coco", "pip install faster-coco-eval",
            "faster_coco_eval"),
    Package("albumentations", "blur, grey and contrast in training, as the authors had",
            "pip install albumentations", "albumentations"),
    Package("grad-cam", "gradients in yolov12 heatmap", "pip install grad-cam", "pytorch_grad_cam"),
    Package("tritonclient", "predicts through a Triton server", 'pip install "tritonclient[all]"', "tritonclient"),
)
# fmt: on
TORCH = "pip install --upgrade --force-reinstall torch torchvision, both from one index"
IMPORTED = {  # each with what to do where its import fails
    "torch": TORCH,
    "torchvision": TORCH,
    "ultralytics.nn.tasks": "pip check names what does not fit; pip install --force-reinstall ultralytics",
}
SETTINGS = {
    "YOLO12_PLUGIN": "off leaves Ultralytics as it is",
    "YOLO12_ATTENTION": "the backend of every attention",
    "YOLO12_CHECKPOINT": "checkpoints the attention blocks in training",
    "YOLO12_GUARD": "guards trainings",
    "YOLO12_BENCH": "verifies and times what is exported",
    "YOLO12_WEIGHTS_URL": "where the authors' weights are downloaded from",
}
SWITCHES = ("YOLO12_PLUGIN", "YOLO12_CHECKPOINT", "YOLO12_GUARD", "YOLO12_BENCH")
ON = ("on", "1", "true", "yes")
FORK = "8.3.63"  # the release that the authors' fork is frozen at


def report() -> dict[str, Any]:
    """All that `yolov12 doctor` says. Nothing is raised: what cannot be told is one of the `findings`.

    `versions` are None where a package is not installed. `registered` and `patches` are of this process;
    `runs_at_start` tells whether `import ultralytics` alone registers the plugin in a new one, None where that could
    not be tried. `findings` come the most severe first.
    """
    failed = imports()
    findings = list(dict.fromkeys(failed.values()))

    def ask(otherwise: Any, probe: Callable[..., Any], *args: Any, needs: Collection[str] = ()) -> Any:
        if any(module in failed for module in needs):
            return otherwise
        try:
            return probe(*args)
        except Exception as e:  # whatever is broken, that is what was asked for
            what = f"{probe.__name__.replace('_', ' ')}: {type(e).__name__}: {first_line(e)}"
            findings.append(Finding("warning", what, "reinstall what it names; pip check names what does not fit"))
            return otherwise

    versions = installed() | {"cudnn": ask(None, cudnn, needs=["torch"])}
    names_of_devices = ask(["cpu"], visible_devices, needs=["torch"])
    devices = [row for name in names_of_devices if (row := ask(None, about_device, name, needs=IMPORTED))]
    attention = [row for d in devices for row in ask([], attention_rows, d["device"], d["name"], needs=IMPORTED)]
    majors = {_major(d) for d in devices} - {0}
    hook = ask(None, runs_at_start)

    findings += ask([], ultralytics_release, versions["ultralytics"])
    findings += ask([], other_ultralytics)
    findings += ask([], requirements, versions)
    findings += ask([], start_up, hook)
    findings += ask([], registration, hook, needs=IMPORTED)
    findings += ask([], replaced_code)
    findings += ask([], settings)
    findings += ask([], own_files)
    findings += ask([], attention_backends, attention, devices, needs=IMPORTED)
    findings += ask([], unseen_gpus, needs=["torch"])
    for name in names_of_devices:
        findings += ask([], suppression, name, needs=["torch", "torchvision"])
    for package in PACKAGES:
        findings += ask([], optional_package, package, versions[package.name], majors)
    return {
        "versions": versions,
        "platform": platform.platform(),
        "executable": sys.executable,
        "devices": devices,
        "registered": registry.is_registered(),
        "runs_at_start": hook,
        "patches": [
            {"attribute": f"{p.owner}.{p.attribute}", "why": p.why, "in_place": patching.is_in_place(p)}
            for p in registry.PATCHES
        ],
        "attention": attention,
        "settings": {name: _value(name) or None for name in SETTINGS},
        "tested_ultralytics": list(registry.TESTED),
        "findings": [f._asdict() for f in sorted(findings, key=lambda finding: LEVELS.index(finding.level))],
    }


def imports() -> dict[str, Finding]:
    """What keeps PyTorch, torchvision and Ultralytics from being imported, by module."""
    failed: dict[str, Finding] = {}
    for module, remedy in IMPORTED.items():
        package = module.partition(".")[0]
        try:
            importlib.import_module(module)
        except Exception as e:  # a library, a symbol, another package: it is said
            if isinstance(e, ModuleNotFoundError) and e.name == package:
                failed[module] = Finding("error", f"{package} is not installed", f"pip install {package}")
                continue
            if "libGL" in str(e):
                remedy = "pip uninstall opencv-python, then pip install opencv-python-headless"
            what = f"{package} {_version(package)} cannot be imported: {type(e).__name__}: {first_line(e)}"
            failed[module] = Finding("error", what, remedy)
        if "torch" in failed:  # and so nothing else can be
            return dict.fromkeys(IMPORTED, failed["torch"])
    return failed


def installed() -> dict[str, str | None]:
    """Versions of what the plugin runs on and of what it can use; "unknown" where only the module is there."""
    torch, ultralytics = sys.modules.get("torch"), sys.modules.get("ultralytics")
    optional = {
        package.name: _version(package.name, *package.others) or ("unknown" if _is_there(package.module) else None)
        for package in PACKAGES
    }
    return {
        "yolov12-plugin": yolov12_plugin.__version__,
        "python": platform.python_version(),
        "ultralytics": getattr(ultralytics, "__version__", None) or _version("ultralytics"),
        "torch": _version("torch"),
        "torchvision": _version("torchvision"),
        **optional,
        "cuda": torch.version.cuda if torch else None,
    }


def cudnn() -> str | None:
    """The version of cuDNN that PyTorch loads.

    Raises:
        RuntimeError: it is another than PyTorch was built with.
    """
    import torch

    number = torch.backends.cudnn.version()
    if number is None:
        return None
    major, rest = divmod(number, 10_000 if number >= 90_000 else 1_000)
    return f"{major}.{rest // 100}.{rest % 100}"


def visible_devices() -> list[str]:
    import torch

    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def about_device(name: str) -> dict[str, Any]:
    """A device's name and memory (GiB); of a CPU its cores and PyTorch's threads, of a GPU capability and driver."""
    import psutil
    import torch

    from yolov12_plugin.benchmark.machine import machine

    found = machine(torch.device(name))
    if found["gpu"]:
        keys = ("name", "memory_gib", "compute_capability", "driver")
        return {"device": name} | {key: found["gpu"][key] for key in keys}
    row = {"device": name, "name": found["processor"], "memory_gib": round(psutil.virtual_memory().total / 2**30, 1)}
    return row | ({"cores": found["cores"], "threads": torch.get_num_threads()} if name == "cpu" else {})


def attention_rows(device: str, name: str) -> list[dict[str, str]]:
    """The backend of a device in each dtype, and why it is that one."""
    import torch

    from yolov12_plugin.nn import attention
    from yolov12_plugin.nn.modules import HEAD_DIM

    rows, selected = [], attention.attention_backend.current()
    for dtype in torch.float32, torch.float16, torch.bfloat16:
        backend, why = selected, "selected"
        if selected not in ("sdpa", "math"):
            try:
                case = attention.Case.of(torch.empty(1, 1, 1, HEAD_DIM, device=device, dtype=dtype))
                backend = attention.choose(selected, case)
                why = attention.find_flash(case)[1]
            except (ImportError, RuntimeError, ValueError) as e:
                backend, why = "none", str(e)
        row = {"device": device, "name": name, "dtype": str(dtype).removeprefix("torch.")}
        rows.append(row | {"selected": selected, "backend": backend, "why": why})
    return rows


def attention_backends(rows: list[dict[str, str]], devices: list[dict[str, Any]]) -> list[Finding]:
    """Which backends compute attention; those that are selected and fail, and FlashAttentions left aside."""
    from yolov12_plugin.nn.attention import BACKENDS, FLASH, attention_backend

    selected = attention_backend.current()
    if selected not in BACKENDS:
        what = f"YOLO12_ATTENTION={selected} is unknown: every YOLOv12 fails"
        return [Finding("warning", what, choices(selected, BACKENDS, "values"))]
    found = []
    for device in devices:
        name, major = device["device"], _major(device)
        its = [row for row in rows if row["device"] == name]
        failures = dict.fromkeys(row["why"] for row in its if row["backend"] == "none")
        found += [Finding("warning", f"attention on {name}: {why}", "YOLO12_ATTENTION=auto") for why in failures]
        if not failures:
            backends = ", ".join(dict.fromkeys(row["backend"] for row in its))
            found.append(Finding("ok", f"attention on {name}: {backends}"))
        made_for_it = [flash.name for flash in FLASH if major in flash.capabilities]
        for row in its:
            if row["backend"] == "sdpa" and any(flash in row["why"] for flash in made_for_it):
                what = f"attention on {name} in {row['dtype']} is PyTorch's own: {row['why']}"
                found.append(Finding("warning", what, "reinstall or uninstall the FlashAttention that it names"))
    return found


def _major(device: Mapping[str, Any]) -> int:
    """The major compute capability of a GPU, 0 of what is none."""
    return int(device.get("compute_capability", "0").split(".")[0])


def suppression(device: str) -> list[Finding]:
    """Whether torchvision's operators, which are compiled for one PyTorch, run on a device."""
    import torch
    import torchvision

    pair = f"torchvision {torchvision.__version__} with torch {torch.__version__}"
    try:
        boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]], device=device)
        torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8], device=device), 0.5).tolist()
    except (AttributeError, RuntimeError) as e:
        what = f"{pair} does not compute torchvision::nms on {device}: {first_line(e)}"
        return [Finding("error", what, TORCH)]
    return [Finding("ok", f"{pair}: torchvision::nms runs on {device}")]


def unseen_gpus() -> list[Finding]:
    """NVIDIA GPUs of this machine where PyTorch sees none."""
    import torch

    smi = shutil.which("nvidia-smi")
    if smi is None or torch.cuda.is_available():
        return []
    done = subprocess.run([smi, "--list-gpus"], capture_output=True, text=True, timeout=10, check=False)
    count = len(done.stdout.splitlines())
    if done.returncode or not count:
        return []
    what = f"PyTorch {torch.__version__} sees no GPU, nvidia-smi lists {count}"
    if torch.version.cuda is None:
        remedy = "this PyTorch has no CUDA: https://pytorch.org/get-started/locally names the command for one that has"
    elif (hidden := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [Finding("note", f"{what}: CUDA_VISIBLE_DEVICES={hidden}", "unset it, if that is not meant")]
    else:
        remedy = f"a driver for CUDA {torch.version.cuda}, or a PyTorch for the driver's, which nvidia-smi shows"
    return [Finding("warning", what, remedy)]


def ultralytics_release(version: str | None) -> list[Finding]:
    """Whether a release of Ultralytics is one that the tests have passed on."""
    from packaging.version import InvalidVersion, Version

    if version is None:
        return []
    oldest, newest = registry.TESTED
    install = f'pip install "ultralytics=={newest}"'
    try:
        number = Version(Version(version).public)  # +cu130 and the like are no newer
    except InvalidVersion:
        what = f"Ultralytics {version} is no release: it cannot be told whether it is older than {oldest}"
        return [Finding("note", what, f"if something fails: {install}")]
    if number < Version(oldest):
        fork = ", the release of the authors' fork," if version == FORK else ""
        what = f"Ultralytics {version}{fork} is older than {oldest}, the oldest that the plugin supports"
        return [Finding("error", what, f'pip install --upgrade "ultralytics>={oldest}"')]
    if number > Version(newest):
        what = f"Ultralytics {version} is newer than {newest}, the newest tested; nothing is known to be wrong with it"
        return [Finding("note", what, f"if something fails: {install}")]
    if number in map(Version, registry.TESTED):
        return [Finding("ok", f"Ultralytics {version}: the tests have passed on it")]
    return [Finding("ok", f"Ultralytics {version}: between {oldest} and {newest}, on which the tests have passed")]


def other_ultralytics() -> list[Finding]:
    """Another Ultralytics than the installed one, in this process or in what starts in this folder."""
    found = []
    file = getattr(sys.modules.get("ultralytics"), "__file__", None)
    ours = Path(file).resolve() if file else None
    listed, local = _location("ultralytics", "ultralytics/__init__.py"), Path("ultralytics/__init__.py")
    if ours and listed and listed.is_file() and listed.resolve() != ours:
        what = f"Ultralytics{_release(ours)} is imported from {ours.parent}, not from {listed.parent}"
        found.append(Finding("warning", what, "take its folder out of PYTHONPATH"))
    if local.is_file() and local.resolve() != ours:
        what = f"Python started in this folder imports ./ultralytics{_release(local)}, not what is installed"
        found.append(Finding("warning", what, "start it in another folder, or rename ./ultralytics"))
    return found


def _release(init: Path) -> str:
    text = re.search(r"""__version__ = ["'](.+?)["']""", init.read_text(encoding="utf-8", errors="replace"))
    fork = " (that of the authors' fork)" if text and text[1] == FORK else ""
    return f" {text[1]}{fork}" if text else ""


def requirements(versions: Mapping[str, str | None]) -> list[Finding]:
    """What the plugin's own metadata asks for and does not find; of Ultralytics, `ultralytics_release` tells."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    try:
        plugin = metadata.distribution("yolov12-plugin")
    except metadata.PackageNotFoundError:  # imported from a checkout
        return []
    found = []
    python, wanted = platform.python_version(), SpecifierSet(plugin.metadata["Requires-Python"])
    if not wanted.contains(python, prereleases=True):
        found.append(Finding("error", f"Python is {python}, not {wanted}", f"use a Python {wanted}"))
    for requirement in map(Requirement, plugin.requires or ()):
        name, wanted, extra = canonicalize_name(requirement.name), requirement.specifier, requirement.marker is not None
        if name == "ultralytics" or (extra and name not in versions):
            continue
        version = versions[name] if name in versions else _version(name)
        install = f'pip install --upgrade "{requirement.name}{wanted}"'
        if version is None:
            if not extra and name not in IMPORTED:
                found.append(Finding("warning", f"{name} is not installed", install))
            continue
        try:
            if not wanted.contains(Version(version), prereleases=True):
                level = "warning" if extra else "error"
                found.append(Finding(level, f"{name} is {version}, not {wanted}", install))
        except InvalidVersion:
            what = f"{name} {version} cannot be compared with {wanted}"
            found.append(Finding("note", what, f"if something fails: {install}"))
    supported = Finding("ok", f"Python {python} and torch {versions['torch']} are supported")
    return list(dict.fromkeys(found)) or [supported]  # extras share requirements


def runs_at_start() -> bool:
    """Whether a new Python process runs the plugin's start-up file, before it imports anything."""
    if getattr(sys, "frozen", False):  # its executable is the application
        return False
    code = "import sys; print('yolov12_plugin.autoload' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()[-1] == "True"


def start_up(hook: bool | None) -> list[Finding]:
    """What follows where no start-up file runs: nothing registers the plugin when Ultralytics is imported."""
    if hook is not False:
        return []
    folder = Path(yolov12_plugin.__file__).parent
    what = f"import ultralytics does not register the plugin: Python runs no start-up file (.pth) of {folder}"
    remedy = "call yolov12_plugin.register(); or pip install the plugin, without --target"
    return [Finding("warning", what, remedy)]


def registration(hook: bool | None) -> list[Finding]:
    """Whether the plugin is registered in this process, or what is in the way; nothing stays changed by the trial."""
    if autoload.is_off():
        return []
    missing = [patch for patch in registry.PATCHES if not patching.is_in_place(patch)]
    count = len(registry.PATCHES)
    if not missing:
        return [Finding("ok", f"the plugin is registered: {count} of {count} attributes of Ultralytics are its own")]
    if registry.too_old(registry.version()):  # which is why, and is said
        return []
    if len(missing) < count:
        return [_replaced(patch) for patch in missing]
    try:
        patching.apply(registry.PATCHES)
    except patching.Unsupported as e:
        what = f"this Ultralytics has no {e}: YOLOv12 is off, and Ultralytics as it is"
        return [Finding("error", what, f'update yolov12-plugin, or pip install "ultralytics=={registry.TESTED[1]}"')]
    registry.unregister()
    if hook is False:  # which is why, and is said
        return []
    return [Finding("warning", "the plugin is not registered in this process", "yolov12_plugin.register()")]


def _replaced(patch: patching.Patch) -> Finding:
    now = getattr(pkgutil.resolve_name(patch.owner), patch.attribute, None)
    by = f"{getattr(now, '__module__', '?')}.{getattr(now, '__qualname__', type(now).__name__)}"
    what = f"{patch.owner}.{patch.attribute} was replaced after the registration, by {by}"
    return Finding("warning", what, "call yolov12_plugin.register() after the import of what replaces it")


def replaced_code() -> list[Finding]:
    """Classes that the plugin replaces and that are of no release: the user's own, or another plugin's."""
    return [
        Finding("warning", f"not of an Ultralytics release, and replaced by the plugin's: {what}", "YOLO12_PLUGIN=off")
        for what in ownership.foreign(patching.replaced_classes(registry.PATCHES))
    ]


def settings() -> list[Finding]:
    """The plugin's variables of the environment; what YOLO12_ATTENTION selects, `attention_backends` tells."""
    found = []
    for name in sorted(name for name in os.environ if name.startswith("YOLO12_")):
        value = _value(name)
        if name not in SETTINGS:
            near = get_close_matches(name, SETTINGS, n=1)
            what = f"{name} is no setting of the plugin"
            found.append(Finding("warning", what, f"did you mean {near[0]}?" if near else f"unset {name}"))
        elif not value:  # is unset
            continue
        elif name in SWITCHES and value.lower() not in (*autoload.OFF, *ON):
            what = f"{name}={value} is neither on nor off, and is taken for on"
            found.append(Finding("warning", what, choices(value, (*autoload.OFF, *ON), "values")))
        elif name == "YOLO12_PLUGIN" and autoload.is_off():
            found.append(Finding("warning", f"{name}={value}: the plugin is off", f"unset {name}"))
        elif name == "YOLO12_WEIGHTS_URL" and not re.match(r"https?://[^/]", value, re.IGNORECASE):
            what = f"{name}={value} is no URL: no weights can be downloaded"
            found.append(Finding("warning", what, f"{name}=https://..., or unset {name}"))
        elif name != "YOLO12_ATTENTION":
            found.append(Finding("ok", f"{name}={value}: {SETTINGS[name]}"))
    return found


def own_files() -> list[Finding]:
    """YAML files of this folder that are taken for the plugin's; yolov12s.yaml is a name of yolov12.yaml."""
    ours = {path.name for path in names.CFG.rglob("*.yaml")}
    found = []
    for path in sorted(filter(Path.is_file, Path().glob("*.yaml"))):
        of_all_scales = re.sub(r"^(yolov12)[nslmx]", r"\1", path.name)
        if {path.name, of_all_scales} & ours and names.CFG not in path.resolve().parents:
            what = f"{path.name} of this folder is used in place of the plugin's"
            found.append(Finding("note", what, "rename it, or work in another folder, if that is not meant"))
    return found


def optional_package(package: Package, version: str | None, majors: Collection[int]) -> list[Finding]:
    """Whether an optional package is installed, whole, and for one of these GPUs (major compute capabilities)."""
    name, purpose, install, module, _ = package
    if version is None:
        if _is_of_use(package, majors):
            return [Finding("note", f"{name} is not installed ({purpose})", install)]
        return [Finding("note", f"{name} is not installed ({purpose}; no GPU here is one that it is made for)")]
    if module and not _is_there(module):
        what = f"{name} {version} is installed in part: there is no module {module}"
        return [Finding("warning", what, install.replace("pip install", "pip install --force-reinstall", 1))]
    if name == "tensorrt":
        from yolov12_plugin.deploy.tensorrt import HINT, load

        try:
            load()
        except NotRunnable as e:
            why = str(e).removesuffix(f": {HINT}")
            if why != str(e):
                return [Finding("warning", f"{name} {version}: {why}", HINT)]
            return [Finding("note", f"{name} {version}: {why}", "use it where nvidia-smi lists a GPU")]
    return [Finding("ok", f"{name} {version}: {purpose}")]


def missing(findings: Collection[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of a report's findings that say no more than that an optional package is not installed."""
    said = tuple(f"{package.name} is not installed (" for package in PACKAGES)
    return [row for row in findings if row["level"] == "note" and row["what"].startswith(said)]


def _is_of_use(package: Package, majors: Collection[int]) -> bool:
    if package.name == "tensorrt":
        return bool(majors)
    if not package.purpose.startswith("FlashAttention"):
        return True
    if not majors:
        return False
    from yolov12_plugin.nn.attention import FLASH

    made_for = next(flash.capabilities for flash in FLASH if flash.name == package.purpose)
    return any(major in made_for for major in majors)


def _version(*distributions: str) -> str | None:
    """The version of the first of some distributions that is installed; "unknown" where its metadata is broken."""
    for name in distributions:
        try:
            return metadata.version(name) or "unknown"
        except metadata.PackageNotFoundError:
            continue
        except (KeyError, OSError, ValueError):  # a .dist-info as an interrupted pip leaves it
            return "unknown"
    return None


def _is_there(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    return module in sys.modules or bool(module and find_spec(module))


def _location(distribution: str, file: str) -> Path | None:
    try:
        return Path(str(metadata.distribution(distribution).locate_file(file)))
    except metadata.PackageNotFoundError:
        return None


def _value(name: str) -> str:
    """A variable of the environment, without the user and password that a URL may have."""
    return re.sub(r"//[^/@]*@", "//***@", autoload.setting(name))
