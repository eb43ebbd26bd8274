"""The authors' weights by name, from a server on this machine."""

import hashlib
import io
import json
import os
import re
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ultralytics import YOLO

from yolov12_plugin.checkpoints import weights
from yolov12_plugin.models import MODELS, RELEASES, SHA256


def executes():
    """A checkpoint whose pickle calls what it likes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("any/data.pkl", b"cos\nsystem\n(V:\ntR.")
    return file.getvalue()


EXECUTES = executes()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "any.pt"
    YOLO("yolov12n-turbo.yaml", verbose=False).save(path)
    return path.read_bytes()


@pytest.fixture
def server(checkpoint):
    """A server of releases; `answers` are given one after the other, the last one for good."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            answer = server.answers[0] if len(server.answers) == 1 else server.answers.pop(0)
            if "://" in answer:
                self.send_response(302)
                self.send_header("Location", answer)
                self.end_headers()
                return
            body = {"html": b"<html>sign in</html>", "executes": EXECUTES}.get(answer, checkpoint)
            begin = int(self.headers.get("Range", "bytes=0-")[6:-1]) if answer == "the rest" else 0
            self.send_response(404 if answer == "404" else 206 if begin else 200)
            if answer != "no length":
                length = {"a lie": "many", "too large": str(2**40)}.get(answer, str(len(body) - begin))
                self.send_header("Content-Length", length)
            self.end_headers()
            half = len(body) // 2 if answer in ("cut short", "no length") else len(body)
            self.wfile.write(body[begin:half])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.answers = [], ["whole"]
    server.url = f"http://127.0.0.1:{server.server_port}"
    # As often as this it looks whether it is to end, by default twice a second.
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path, monkeypatch, server):
    """Ultralytics' weights folder; the working directory is another."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(weights, "SETTINGS", {"weights_dir": tmp_path / "weights"})  # it does not exist yet
    monkeypatch.setenv("YOLO12_WEIGHTS_URL", server.url)
    return tmp_path / "weights"


RELEASED = [m.name for m in MODELS.values() if m.weights]


def test_released():
    assert len(RELEASED) == 20 and RELEASES.startswith("https://github.com/sunsmarterjie/yolov12/")
    assert MODELS["yolov12n"].weights == "v1.0/yolov12n.pt"
    assert MODELS["yolov12x-turbo"].weights == "turbo/yolov12x.pt"
    assert MODELS["yolov12l-seg"].weights == "seg/yolov12l-seg.pt"
    assert MODELS["yolov12m-cls"].weights == "cls/yolov12m-cls.pt"


@pytest.mark.parametrize("name", RELEASED)
def test_download(name, server, folder, checkpoint):
    found = weights.find(f"{name}.pt")
    assert Path(found) == folder / f"{name}.pt" and Path(found).read_bytes() == checkpoint
    assert server.asked == [f"/{MODELS[name].weights}"]
    assert weights.find(f" '{name}.pt' ") == found and len(server.asked) == 1  # not again
    assert [p.name for p in folder.iterdir()] == [f"{name}.pt"] and not list(Path().iterdir())


def test_through_ultralytics(server, folder):
    model = YOLO("yolov12n-turbo.pt")
    assert model.ckpt_path == str(folder / "yolov12n-turbo.pt") and model.task == "detect"
    yolo = YOLO("yolov12n-turbo.yaml").load("yolov12n-turbo.pt")
    assert all((a == b).all() for a, b in zip(yolo.model.state_dict().values(), model.model.state_dict().values()))
    assert server.asked == ["/turbo/yolov12n.pt"]


@pytest.mark.parametrize("name", RELEASED)
def test_the_name_alone_means_its_weights(name, server, folder, checkpoint):
    """As stock takes yolo12n for yolo12n.pt."""
    from ultralytics.engine import trainer
    from ultralytics.utils import checks

    assert checks.check_model_file_from_stem(name) == trainer.check_model_file_from_stem(name) == Path(f"{name}.pt")
    folder.mkdir()
    (folder / f"{name}.pt").write_bytes(checkpoint)
    assert YOLO(name).ckpt_path == str(folder / f"{name}.pt") and not server.asked


def test_the_name_alone_where_its_file_is(server, folder, checkpoint):
    assert YOLO("yolov12n").ckpt_path == str(folder / "yolov12n.pt") and server.asked == ["/v1.0/yolov12n.pt"]
    Path("yolov12n.pt").write_bytes(checkpoint)
    (folder / "yolov12n.pt").unlink()
    assert YOLO("yolov12n").ckpt_path == "yolov12n.pt"
    Path("sub").mkdir()
    Path("sub/yolov12s.pt").write_bytes(checkpoint)
    assert YOLO("sub/yolov12s").ckpt_path == "sub/yolov12s.pt"
    Path("yolov12n").mkdir()  # a folder of runs may have that name
    assert YOLO("yolov12n").ckpt_path == "yolov12n.pt" and len(server.asked) == 1


@pytest.mark.parametrize("name", ["yolov12n-pose", "yolov12x-obb"])
def test_a_name_of_nothing_released(name, server, folder):
    with pytest.raises(FileNotFoundError) as e:
        YOLO(name)
    assert f"{name}.pt does not exist, and no weights were released for" in str(e.value) and "\n" not in str(e.value)
    assert not server.asked


@pytest.mark.parametrize("name", ["yolov12", "yolov12q", "yolov12n-residual", "yolov13n", "YOLOv12n"])
def test_other_names_alone_fail_as_ever(name, server, folder):
    with pytest.raises(FileNotFoundError, match=f"'{name}' does not exist"):
        YOLO(name)
    assert not server.asked


def test_a_file_that_is_there_is_taken(server, folder, checkpoint):
    Path("yolov12n.pt").write_bytes(b"mine")
    folder.mkdir()
    (folder / "yolov12s.pt").write_bytes(b"kept")
    assert weights.find("yolov12n.pt") == "yolov12n.pt"
    assert weights.find("yolov12s.pt") == str(folder / "yolov12s.pt")
    Path("sub").mkdir()
    assert weights.find("sub/yolov12n.pt") == "sub/yolov12n.pt"  # a path is where it goes
    assert Path("sub/yolov12n.pt").read_bytes() == checkpoint and server.asked == ["/v1.0/yolov12n.pt"]


@pytest.mark.parametrize(
    "name",
    ["yolo12n.pt", "yolo11n.pt", "best.pt", "yolov12n.yaml", "yolov12n", "yolov12n.onnx", "a/last.pt",
     "yolov13n.pt", "https://example.com/yolov12n.pt", "http:/example.com/yolov12n.pt", "x" * 300 + ".pt", "a\0.pt"],
)  # fmt: skip
def test_other_names_are_left_to_ultralytics(name, server, folder):
    assert weights.find(name) == name
    assert not server.asked and not folder.exists()


@pytest.mark.parametrize(
    "name, nearest",
    [("yolov12n_turbo.pt", "yolov12n-turbo.pt?"), ("YOLOv12n.pt", "yolov12n.pt?"), ("yolov12nn.pt", "yolov12n.pt?"),
     ("yolo12n-turbo.pt", "yolov12n-turbo.pt?"), ("yolov12n-sge.pt", "yolov12n-seg.pt?"), ("yolov12n.PT", "yolov12n.pt?"),
     ("yolov12.pt", "yolov12n.pt, yolov12s.pt, yolov12m.pt, yolov12l.pt or yolov12x.pt?"), ("runs/yolov12x_cls.pt", "yolov12x-cls.pt?"),
     ("yolov12n.pth", "yolov12n.pt?")],
)  # fmt: skip
def test_misspelt_weights_are_answered_without_the_network(name, nearest, server, folder, monkeypatch):
    monkeypatch.setattr("ultralytics.utils.downloads.get_github_assets", lambda *a, **k: pytest.fail("asked GitHub"))
    for load in YOLO, YOLO("yolov12n.yaml", verbose=False).load:
        with pytest.raises(FileNotFoundError) as e:
            load(name)
        assert str(e.value) == f"'{name}' does not exist; did you mean {nearest}"
        if name.endswith("pth"):  # Ultralytics loads none from there
            break
    assert not server.asked and not folder.exists()


@pytest.mark.parametrize("name", ["YOLOv12n.pt", "yolov12n_turbo.pt"])
def test_a_file_of_a_like_name_is_taken(name, folder, checkpoint):
    folder.mkdir()
    (folder / name).write_bytes(checkpoint)
    assert weights.find(name) == str(folder / name)
    Path(name).write_bytes(checkpoint)
    assert weights.find(name) == name


def test_a_folder_that_is_not_there_is_a_mistake(server, folder):
    with pytest.raises(FileNotFoundError, match="nor does its folder"):
        weights.find("runs/trian/yolov12n.pt")
    assert not server.asked and not list(Path().iterdir())


def test_home(server, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.find("~/yolov12n.pt") == str(tmp_path / "yolov12n.pt") and not list(Path().iterdir())


def test_json_is_clean_beside_a_download(fork, tmp_path, server):
    yolo, yolov12 = (Path(sys.executable).with_name(name) for name in ("yolo", "yolov12"))
    env = dict(YOLO12_WEIGHTS_URL=server.url, YOLO_CONFIG_DIR=str(tmp_path / "config"))
    fork([yolo, "settings", f"weights_dir={tmp_path / 'weights'}"], **env)
    assert json.loads(fork([yolov12, "doctor", "yolov12n-turbo.pt", "--json"], **env).stdout)["release"] == "turbo"
    assert server.asked == ["/turbo/yolov12n.pt"]


@pytest.mark.parametrize("name", ["yolov12n-pose.pt", "yolov12x-obb.pt"])
def test_what_was_not_released(name, server, folder):
    with pytest.raises(FileNotFoundError, match=rf"{name} does not exist, and no weights were released for"):
        weights.find(name)
    assert not server.asked


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("404", "404"),
        ("cut short", "could not be downloaded ("),
        ("no length", "cut short"),
        ("html", "web page"),
        ("executes", "not executed"),
        ("too large", "MB"),
        ("a lie", "could not be downloaded ("),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_failure_leaves_nothing(answer, word, there, server, folder):
    server.answers = [answer]
    if there:
        folder.mkdir()
        (folder / "other.pt").write_bytes(b"other")
    with pytest.raises(FileNotFoundError) as e:
        weights.find("yolov12n-turbo.pt")
    line = str(e.value)
    assert "\n" not in line and word in line
    assert f"Download {server.url}/turbo/yolov12n.pt by other means" in line
    assert line.endswith(f"put it at {folder / 'yolov12n-turbo.pt'}")
    assert [p.name for p in folder.iterdir()] == ["other.pt"] if there else not folder.exists()
    assert not list(Path().iterdir())


def test_no_network(folder, monkeypatch):
    monkeypatch.setenv("YOLO12_WEIGHTS_URL", "http://127.0.0.1:9/")
    with pytest.raises(FileNotFoundError, match=r"Download http://127\.0\.0\.1:9/v1\.0/yolov12n\.pt by other means"):
        weights.find("yolov12n.pt")
    assert not folder.exists()


@pytest.mark.parametrize("weights_dir", ["weights", "runs/../weights", "."])
def test_one_download_serves_all_folders(weights_dir, server, folder, tmp_path, monkeypatch, checkpoint):
    """Ultralytics' own weights folder is relative by default."""
    monkeypatch.setattr(weights, "SETTINGS", {"weights_dir": weights_dir})
    monkeypatch.setattr(weights, "USER_CONFIG_DIR", tmp_path / "config")
    for here in "one", "two":
        Path(here).mkdir()
        with monkeypatch.context() as patch:
            patch.chdir(here)
            assert YOLO("yolov12n.pt").ckpt_path == str(tmp_path / "config/weights/yolov12n.pt")
            assert not list(Path().iterdir())
    assert server.asked == ["/v1.0/yolov12n.pt"]
    Path(weights_dir).mkdir(parents=True, exist_ok=True)
    (Path(weights_dir) / "yolov12n.pt").write_bytes(checkpoint)
    assert Path(weights.find("yolov12n.pt")).samefile(Path(weights_dir, "yolov12n.pt"))  # as Ultralytics finds it


@pytest.mark.parametrize("there", [True, False])
def test_a_read_only_folder(there, server, folder, tmp_path, monkeypatch):
    if there:
        folder.mkdir()
    locked = folder if there else tmp_path
    monkeypatch.setattr("os.access", lambda place, mode: os.fspath(place) != os.fspath(locked))
    with pytest.raises(FileNotFoundError) as e:
        YOLO("yolov12n-turbo.pt")
    assert str(e.value) == (
        f"yolov12n-turbo.pt is not here, and {locked} is read-only: download {server.url}/turbo/yolov12n.pt and name the "
        "file by its path, or name a folder for weights by `yolo settings weights_dir=FOLDER`"
    )
    assert not server.asked and folder.exists() == there


def test_the_password_of_a_mirror_is_not_said(folder, monkeypatch):
    monkeypatch.setenv("YOLO12_WEIGHTS_URL", "http://me:secret@127.0.0.1:9/")
    with pytest.raises(FileNotFoundError, match=r"Download http://\*\*\*@127\.0\.0\.1:9/") as e:
        weights.find("yolov12n.pt")
    assert "secret" not in str(e.value)


@pytest.mark.parametrize(
    "value, url", [("", RELEASES), ("  ", RELEASES), (" http://127.0.0.1:9/Mirror/ ", "http://127.0.0.1:9/Mirror")]
)
def test_where_weights_are_looked_for(folder, monkeypatch, value, url):
    def refused(url, file):
        raise ConnectionError(f"asked {url}")

    monkeypatch.setattr(weights, "_fetch", refused)
    monkeypatch.setenv("YOLO12_WEIGHTS_URL", value)
    with pytest.raises(FileNotFoundError, match=re.escape(f"asked {url}/v1.0/yolov12n.pt")):
        weights.find("yolov12n.pt")


@pytest.mark.parametrize("then", ["whole", "the rest"])
def test_another_try(then, server, folder, checkpoint):
    """It goes on after what came, or anew where the server gives the whole."""
    server.answers = ["cut short", then]
    assert Path(weights.find("yolov12n.pt")).read_bytes() == checkpoint and len(server.asked) == 2


def test_an_interrupted_download_leaves_nothing(server, folder, monkeypatch):
    def interrupted(url, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "_fetch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        weights.find("yolov12n.pt")
    assert not folder.exists() and not list(Path().iterdir())


@pytest.mark.parametrize(
    "mirror",
    ["http://example.com", "http://127.0.0.1.example.com", "http://127.0.0.1@example.com", "ftp://example.com"],
)
def test_what_is_not_https_is_not_asked(mirror, folder, monkeypatch):
    monkeypatch.setenv("YOLO12_WEIGHTS_URL", mirror)
    monkeypatch.setattr("requests.Session.send", lambda *a, **k: pytest.fail("it was asked"))
    with pytest.raises(FileNotFoundError, match=r"is not https: .* YOLO12_INSECURE=1"):
        weights.find("yolov12n.pt")
    assert not folder.exists()


def test_insecure_is_a_choice(folder, monkeypatch):
    def asked(self, request, **options):
        raise ConnectionError(f"asked {request.url}")

    monkeypatch.setenv("YOLO12_WEIGHTS_URL", "http://example.com")
    monkeypatch.setenv("YOLO12_INSECURE", "1")
    monkeypatch.setattr("requests.Session.send", asked)
    with pytest.raises(FileNotFoundError, match=r"asked http://example\.com/v1\.0/yolov12n\.pt"):
        weights.find("yolov12n.pt")


@pytest.mark.parametrize(
    "place", ["https://127.0.0.1:9/x", "ftp://127.0.0.1:9/x", "http://example.com/x", "file:///etc"]
)
def test_a_redirect_to_elsewhere_is_not_followed(place, server, folder):
    server.answers = [place]
    with pytest.raises(FileNotFoundError, match="YOLO12_INSECURE=1"):
        weights.find("yolov12n.pt")
    assert len(server.asked) == 1 and not folder.exists()


@pytest.mark.parametrize("insecure", [False, True])
def test_a_redirect_is_followed(insecure, server, folder, checkpoint, monkeypatch):
    """GitHub's releases are: to another host, by https as they were asked."""
    monkeypatch.setenv("YOLO12_INSECURE", str(int(insecure)))
    server.answers = [f"{server.url}/elsewhere", "whole"]
    assert Path(weights.find("yolov12n.pt")).read_bytes() == checkpoint
    assert server.asked == ["/v1.0/yolov12n.pt", "/elsewhere"]


@pytest.mark.parametrize("right", [True, False])
def test_a_digest_that_is_known_is_asked_for(right, server, folder, checkpoint, monkeypatch):
    digest = hashlib.sha256(checkpoint if right else b"").hexdigest()
    monkeypatch.setattr(weights, "SHA256", {"v1.0/yolov12n.pt": digest})
    if right:
        assert Path(weights.find("yolov12n.pt")).read_bytes() == checkpoint
        return
    with pytest.raises(FileNotFoundError, match=rf"{hashlib.sha256(checkpoint).hexdigest()}, not {digest}"):
        weights.find("yolov12n.pt")
    assert not folder.exists()


def test_digests_are_of_released_files():
    assert SHA256.keys() <= {m.weights for m in MODELS.values()}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in SHA256.values())


def test_eight_at_once(server, folder, checkpoint):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(weights.find, ["yolov12n.pt"] * 8))
    assert found == {str(folder / "yolov12n.pt")} and (folder / "yolov12n.pt").read_bytes() == checkpoint
    assert os.listdir(folder) == ["yolov12n.pt"] and sorted(os.listdir(folder.parent)) == ["here", "weights"]


def test_killed_while_it_downloads(fork, tmp_path, server):
    """What a kill leaves is under a name that nothing loads."""
    code = (
        "import os, yolov12_plugin.checkpoints.weights as w\n"
        "def half(url, file): file.write_bytes(b'half'); os._exit(9)\n"
        "w._fetch = half\n"
        "w.SETTINGS = {'weights_dir': os.path.abspath('weights')}\n"
        "w.find('yolov12n.pt')"
    )
    assert fork(code, check=False).returncode == 9
    assert not (tmp_path / "weights/yolov12n.pt").exists()


@pytest.mark.train
@pytest.mark.process
def test_the_stock_command(fork, tmp_path, server):
    """From an empty folder: a name of the releases where Ultralytics takes a model, or weights to start from."""
    yolo = Path(sys.executable).with_name("yolo")
    settings = dict(YOLO_CONFIG_DIR=str(tmp_path / "config"), YOLO12_WEIGHTS_URL=server.url)
    fork([yolo, "settings", f"weights_dir={tmp_path / 'weights'}", f"datasets_dir={tmp_path / 'data'}"], **settings)
    from ultralytics.utils import ASSETS

    predict = [yolo, "predict", "model=yolov12n-turbo.pt", f"source={ASSETS / 'bus.jpg'}", "imgsz=64", "device=cpu"]
    fork(predict, **settings)
    fork([*predict[:2], "model=yolov12n-turbo", *predict[3:]], **settings)
    train = [yolo, "train", "model=yolov12n-turbo.yaml", "pretrained=yolov12n-turbo.pt", "data=shapes.yaml", "epochs=1",
             "imgsz=32", "device=cpu", "workers=0", "plots=False", "val=False", f"project={tmp_path}"]  # fmt: skip
    out = fork(train, **settings)
    assert "/739 items from pretrained weights (yolov12n-turbo.pt)" in out.stdout
    assert server.asked == ["/turbo/yolov12n.pt"] and (tmp_path / "weights/yolov12n-turbo.pt").is_file()
    server.answers = ["404"]
    failed = fork([yolo, "predict", "model=yolov12s-turbo.pt", "device=cpu"], check=False, **settings)
    assert failed.returncode and f"Download {server.url}/turbo/yolov12s.pt" in failed.stderr.splitlines()[-1]
