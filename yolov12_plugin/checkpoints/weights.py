"""The authors' trained weights: found by name, or downloaded from their releases."""

import hashlib
import ipaddress
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from ultralytics.utils import SETTINGS, TQDM, USER_CONFIG_DIR
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

from yolov12_plugin.autoload import setting
from yolov12_plugin.checkpoints.safe_load import read
from yolov12_plugin.errors import first_line
from yolov12_plugin.files import beside
from yolov12_plugin.models import MODELS, RELEASES, SHA256
from yolov12_plugin.names import missing
from yolov12_plugin.switches import is_on

LARGEST = 2**30  # bytes of a download; the weights of X have some 120 MB
TRIES = 4


def find(file: str | os.PathLike[str]) -> str:
    """Path of a checkpoint: as given, in Ultralytics' weights folder, in `cache`, or there after its download.

    Downloaded are the authors' releases, under the names of their YAMLs: yolov12n.pt (v1.0), yolov12n-turbo.pt,
    yolov12n-seg.pt, yolov12n-cls.pt; YOLO12_WEIGHTS_URL in the environment names a mirror of them. They
    come by https, but from this machine or with YOLO12_INSECURE=1, and are read as data before they are kept. Any
    other name is given back as it is.

    Raises:
        FileNotFoundError: nothing was released under this name, which may be misspelt: the message has the nearest
            ones; or its download failed, or was refused: the message names the URL and where to put the file.
    """
    path = Path(str(file).strip().replace("'", "")).expanduser()  # as Ultralytics reads names
    if path.suffix.lower() != ".pt" or os.path.exists(path) or str(file).lower().startswith(("http:/", "https:/")):
        return str(file)
    for folder in dict.fromkeys((Path(SETTINGS["weights_dir"]), cache())):
        if os.path.exists(folder / path):
            return str(folder / path)
    model = MODELS.get(path.stem) if path.suffix == ".pt" else None
    if model is None:
        # Ultralytics asks GitHub for any other name, and says then that it cannot open it.
        if path.name not in GITHUB_ASSETS_NAMES and (line := missing(path)):
            raise FileNotFoundError(line)
        return str(file)
    if model.weights is None:
        raise FileNotFoundError(
            f"{path} does not exist, and no weights were released for {model.task}: give the path of your own, or "
            f"train {model.yaml}"
        )
    # A bare name goes where every folder finds it, a path where it says.
    if not path.parent.name:
        path = cache() / path
    elif not path.parent.is_dir():
        raise FileNotFoundError(f"{path} does not exist, nor does its folder: check the path")
    _download(
        f"{(setting('YOLO12_WEIGHTS_URL') or RELEASES).rstrip('/')}/{model.weights}", path, SHA256.get(model.weights)
    )
    return str(path)


def masked(text: str) -> str:
    """A text without the user and password that a URL in it may have."""
    return re.sub(r"//[^/@\s]*@", "//***@", text)


def cache() -> Path:
    """The folder of downloads: Ultralytics' for weights, or one of the user where that is relative, as by default."""
    folder = Path(SETTINGS["weights_dir"]).expanduser()
    return folder if folder.is_absolute() else USER_CONFIG_DIR / "weights"


def _download(url: str, path: Path, sha256: str | None) -> None:
    """The file is there whole, with what is known of it, or not at all."""
    nearest = next(parent for parent in path.absolute().parents if parent.is_dir())
    if not os.access(nearest, os.W_OK):
        raise FileNotFoundError(
            f"{path.name} is not here, and {nearest} is read-only: download {masked(url)} and name the file by its "
            "path, or name a folder for weights by `yolo settings weights_dir=FOLDER`"
        )
    try:
        with beside(nearest / path.name) as folder:
            part = folder / path.name
            _fetch(url, part)
            if sha256 and (found := hashlib.sha256(part.read_bytes()).hexdigest()) != sha256:
                raise ConnectionError(f"what came is another file: its SHA-256 is {found}, not {sha256}")
            read(part)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, path)
    except (OSError, ValueError) as e:  # also of a server's own numbers
        reason = masked(" ".join(first_line(e).split())).replace(f"{part} ", "what came ")
        raise FileNotFoundError(
            f"{path.name} is not here and could not be downloaded ({reason}). Download {masked(url)} by other means "
            f"and put it at {path.absolute()}"
        ) from e


def _fetch(url: str, file: Path) -> None:
    """Write what a URL has to a file; where the connection breaks, go on after what came."""
    import requests  # slow, as Ultralytics says, and of no use to who has the file

    def check(answer: Any, **options: Any) -> None:
        if answer.is_redirect:
            _check_way(urljoin(answer.url, answer.headers["location"]), of=url)

    _check_way(url, of=url)
    with file.open("wb") as part, requests.Session() as session:
        for left in reversed(range(TRIES)):
            here = part.tell()
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={here}-"} if here else {})
            try:
                with session.get(
                    url, stream=True, timeout=(30, 300), headers=headers, hooks={"response": check}
                ) as answer:
                    answer.raise_for_status()
                    if answer.status_code != requests.codes.partial_content:
                        here = part.seek(0)
                        part.truncate()
                    size = int(answer.headers.get("Content-Length", 0)) + here
                    with TQDM(
                        total=size, desc=f"Downloading {file.name}", unit="B", unit_scale=True, initial=here
                    ) as bar:
                        for chunk in answer.iter_content(2**16):
                            if max(part.tell() + len(chunk), size) > LARGEST:
                                raise ConnectionError(f"it has more than {LARGEST >> 20} MB, which no weights have")
                            bar.update(part.write(chunk))
                return
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                if not left:
                    raise


def _check_way(url: str, of: str) -> None:
    """Raises ConnectionError where a URL, or what it was redirected to, is no safe way for weights to come."""
    way, first = urlsplit(url), urlsplit(of)
    if is_on("YOLO12_INSECURE"):
        return
    if way.scheme != first.scheme:
        raise ConnectionError(f"it is redirected to {masked(url)}, from {first.scheme}; YOLO12_INSECURE=1 would follow")
    if way.scheme != "https" and not _is_here(way.hostname or ""):
        raise ConnectionError(f"{masked(url)} is not https: name a mirror that is, or set YOLO12_INSECURE=1")


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
