"""The authors' trained weights: found by name, or downloaded from their releases."""

import os
import tempfile
import zipfile
from pathlib import Path

from ultralytics.utils import SETTINGS
from ultralytics.utils.downloads import safe_download

from yolov12_plugin.autoload import setting
from yolov12_plugin.models import MODELS, RELEASES


def find(file: str | os.PathLike[str]) -> str:
    """Path of a checkpoint: as given, in Ultralytics' weights folder, or there after its download.

    Downloaded are the authors' releases, under the names of their YAMLs: yolov12n.pt (v1.0), yolov12n-turbo.pt,
    yolov12n-seg.pt, yolov12n-cls.pt; YOLO12_WEIGHTS_URL in the environment names a mirror of them. Any other name is
    given back as it is.

    Raises:
        FileNotFoundError: nothing was released under this name, or its download failed; the message names the URL and
            where to put the file.
    """
    path = Path(str(file).strip().replace("'", "")).expanduser()  # as Ultralytics reads names
    model = MODELS.get(path.stem) if path.suffix == ".pt" else None
    if model is None or path.exists() or str(file).lower().startswith(("http:/", "https:/")):
        return str(file)
    folder = Path(SETTINGS["weights_dir"])
    if (folder / path).exists():
        return str(folder / path)
    if model.weights is None:
        raise FileNotFoundError(
            f"{path} does not exist, and no weights were released for {model.task}: give the path of your own, or "
            f"train {model.yaml}"
        )
    # A bare name goes where every folder finds it, a path where it says.
    if not path.parent.name:
        path = folder / path
        folder.mkdir(parents=True, exist_ok=True)
    elif not path.parent.is_dir():
        raise FileNotFoundError(f"{path} does not exist, nor does its folder: check the path")
    _download(f"{(setting('YOLO12_WEIGHTS_URL') or RELEASES).rstrip('/')}/{model.weights}", path)
    return str(path)


def _download(url: str, path: Path) -> None:
    """Download by Ultralytics' own function; the file is there whole, or not at all."""
    try:
        # In a folder of its own, as the download has parts beside it.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            part = Path(folder) / path.name
            safe_download(url, file=part.name, dir=part.parent)
            if not zipfile.is_zipfile(part):  # a page of a proxy, or cut short with no length announced
                raise ConnectionError("what came is no whole checkpoint")
            os.replace(part, path)
    except (OSError, MemoryError) as e:  # MemoryError: how Ultralytics says that the disk is full
        reason = " ".join(str(e.__cause__ or e).split())
        raise FileNotFoundError(
            f"{path.name} is not here and could not be downloaded ({reason}). Download {url} by other means and put it "
            f"at {path.absolute()}"
        ) from e
