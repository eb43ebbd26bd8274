"""Models on the Hugging Face Hub: pushed to a server here that answers as the Hub does, pulled from it, and from the cache."""

import base64
import hashlib
import importlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import yaml
from ultralytics import YOLO

import yolov12_plugin as y12
from yolov12_plugin.checkpoints import hub
from yolov12_plugin.errors import CheckpointError, NotRunnable

huggingface_hub = pytest.importorskip("huggingface_hub", reason='pip install "yolov12-plugin[hub]"')
safetensors = pytest.importorskip("safetensors.torch", reason='pip install "yolov12-plugin[hub]"')


class Server(ThreadingHTTPServer):
    """The Hub's API as huggingface_hub uses it: repositories with branches of commits of files, some private."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.branches, self.commits, self.private, self.tokens, self.unknown = {}, {}, set(), set(), []


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status=200, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        hub, (path, _, _) = self.server, self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.tokens.add(self.headers.get("Authorization"))
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            hub.private |= {repo} if asked.get("visibility") == "private" or asked.get("private") else set()
            if (repo, "main") in hub.branches:
                return self.reply(
                    409, {"error": "You already created this model repo", "url": f"http://127.0.0.1/{repo}"}
                )
            hub.branches[repo, "main"] = None
            return self.reply(200, {"url": f"http://127.0.0.1/{repo}"})
        if path == "/api/validate-yaml":
            yaml.safe_load(json.loads(body)["content"].split("---")[1])
            return self.reply(200, {"errors": [], "warnings": []})
        repo, action, revision = re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/(\w+)/([\w.-]+)", path).groups()
        if action == "branch":
            hub.branches.setdefault((repo, revision), hub.branches[repo, "main"])
            return self.reply(200, {})
        if (repo, revision) not in hub.branches:
            return self.reply(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if action == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            return self.reply(
                200, {"files": [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        commit = hashlib.sha1(body).hexdigest()
        hub.branches[repo, revision], hub.commits[repo, commit] = commit, files
        return self.reply(200, {"commitUrl": f"http://127.0.0.1/{repo}/commit/{commit}", "commitOid": commit})

    def do_GET(self):
        hub = self.server
        found = re.fullmatch(r"/([\w-]+/[\w-]+)/resolve/([\w.-]+)/([\w.]+)", self.path)
        if found is None:
            hub.unknown.append(self.path)
            return self.reply(404, {"error": "Not found"})
        repo, revision, name = found.groups()
        if repo in hub.private and not self.headers.get("Authorization"):
            return self.reply(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        commit = hub.branches.get((repo, revision), revision)
        files = hub.commits.get((repo, commit))
        if files is None:
            code = "RevisionNotFound" if (repo, "main") in hub.branches else "RepoNotFound"
            return self.reply(404, {"error": code}, X_Error_Code=code)
        if name not in files:
            return self.reply(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        etag = hashlib.sha1(files[name]).hexdigest()
        return self.reply(200, files[name], X_Repo_Commit=commit, ETag=f'"{etag}"')

    do_HEAD = do_GET


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A Hub that is here, and a cache of its own."""
    constants = importlib.import_module("huggingface_hub.constants")
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    for name, value in (
        ("ENDPOINT", endpoint),
        ("HUGGINGFACE_CO_URL_TEMPLATE", template),
        ("HF_HUB_CACHE", str(tmp_path / "cache")),
        ("HF_HUB_OFFLINE", False),
        ("HF_TOKEN_PATH", str(tmp_path / "token")),
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(hub, "cache", lambda: tmp_path / "weights")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.shutdown()
    server.server_close()


def trained(name):
    """A model whose every tensor is its own, normalisations too."""
    torch.manual_seed(0)
    model = YOLO(f"{name}.yaml", verbose=False)
    for key, t in model.model.state_dict().items():
        if t.is_floating_point():
            t += 0.01 * (torch.rand_like(t) if key.endswith("running_var") else torch.randn_like(t))
    model.model.names = {i: f"class {i}" for i in range(model.model.yaml["nc"])}
    return model


@pytest.fixture(scope="module")
def small():
    """A model that no test changes, and the files of it that are pushed."""
    model = trained("yolov12n")
    net = model.model
    return model, {
        "config.json": json.dumps(hub._config(net, "x")).encode(),
        "model.safetensors": safetensors.save({key: hub._exact(t) for key, t in net.state_dict().items()}),
    }


@pytest.fixture
def place(server):
    """Put files into org/name."""

    def put(files):
        server.branches["org/name", "main"] = "0" * 40
        server.commits["org/name", "0" * 40] = files

    return put


@torch.no_grad()
def same(a, b, size=64):
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    found = [m.model.eval()(image) for m in (a, b)]
    while not isinstance(found[0], torch.Tensor):
        found = [out[0] for out in found]
    return bool(found[0].isfinite().all()) and torch.equal(*found)


@pytest.mark.parametrize(
    "name",
    [
        "yolov12n-turbo",
        *(pytest.param(f"yolov12n{task}", marks=pytest.mark.slow) for task in ("-seg", "-cls", "-pose", "-obb")),
    ],
)
def test_what_is_pulled_is_what_was_pushed(name, server):
    model = trained(name)
    url = y12.push(model, "org/name")
    pulled = y12.pull("org/name")
    assert url.endswith(server.branches["org/name", "main"])
    assert same(model, pulled) and pulled.task == model.task and pulled.names == model.names
    assert all(torch.equal(t, model.model.state_dict()[key]) for key, t in pulled.model.state_dict().items())


def test_a_checkpoint_of_the_disk(server, tmp_path):
    """In half precision as Ultralytics saves it; the paths of its training stay here, and it is read as data."""
    model = trained("yolov12n-turbo")
    model.model.args = {"imgsz": 320, "data": "/home/me/secret/coco8.yaml", "project": "/home/me/runs", "epochs": 3}
    model.save(tmp_path / "best.pt")
    ckpt = torch.load(tmp_path / "best.pt", weights_only=False)
    ckpt |= {"train_args": model.model.args, "train_metrics": {"metrics/mAP50-95(B)": 0.4321}, "optimizer": None}
    torch.save(ckpt, tmp_path / "best.pt")
    y12.push(str(tmp_path / "best.pt"), "org/name")
    files = server.commits["org/name", server.branches["org/name", "main"]]
    assert not [name for name, data in files.items() if b"/home/me" in data or b"secret" in data]
    assert len(files["model.safetensors"]) < 0.6 * 4 * sum(p.numel() for p in model.model.parameters())
    card = files["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "agpl-3.0" and front["pipeline_tag"] == "object-detection"
    assert (
        "YOLOv12-N, turbo layout" in card and "0.4321" in card and "coco8.yaml" in card and 'pull("org/name")' in card
    )
    pulled = y12.pull("org/name")
    assert same(YOLO(tmp_path / "best.pt"), pulled) and pulled.overrides["imgsz"] == 320


def test_it_predicts_and_saves(small, place, tmp_path):
    from ultralytics.utils import ASSETS

    place(small[1])
    pulled = y12.pull("org/name")
    pulled.save(tmp_path / "again.pt")
    assert YOLO(tmp_path / "again.pt").model.state_dict().keys() == pulled.model.state_dict().keys()
    (result,) = pulled.predict(ASSETS / "bus.jpg", imgsz=64, device="cpu", verbose=False)
    assert result.names[0] == "class 0"


@pytest.mark.train
def test_it_trains_on(small, place, tmp_path):
    """From its weights, not from new ones."""
    place(small[1])
    pulled = y12.pull("org/name")
    first = []
    pulled.add_callback(
        "on_train_start", lambda trainer: first.append(trainer.model.model[0].conv.weight.detach().clone())
    )
    pulled.train(
        data="shapes.yaml", epochs=1, imgsz=64, workers=0, plots=False, val=False, device="cpu", project=tmp_path
    )
    assert torch.equal(first[0].cpu(), small[0].model.model[0].conv.weight)
    assert (tmp_path / "train/weights/last.pt").is_file()


def test_without_a_network_from_the_cache(small, place, server, monkeypatch):
    place(small[1])
    y12.pull("org/name")
    server.shutdown()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(small[0], y12.pull("org/name"))
    with pytest.raises(OSError, match="org/other was not pulled"):
        y12.pull("org/other")


def test_private_tokens_and_revisions(small, server):
    first, second = small[0], trained("yolov12n")
    with torch.no_grad():
        second.model.model[0].conv.weight.mul_(2)
    y12.push(first, "org/name", private=True, token="hf_secret")
    y12.push(second, "org/name", token="hf_secret", revision="v2")
    assert server.tokens == {"Bearer hf_secret"}
    with pytest.raises(OSError, match=r"org/name was not pulled .*hf auth login"):
        y12.pull("org/name")
    with pytest.raises(OSError, match=r"was not pulled"):
        y12.pull("org/name", token="hf_secret", revision="v3")
    assert same(first, y12.pull("org/name", token="hf_secret"))
    assert same(second, y12.pull("org/name", token="hf_secret", revision=server.branches["org/name", "v2"]))


CALLS = "__import__('os').system('touch executed')"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (lambda c: c["yaml"].update(activation=CALLS), "would call"),
        (lambda c: c["yaml"]["backbone"].__setitem__(0, [-1, 1, CALLS, []]), "would call"),
        (lambda c: c["yaml"]["backbone"].__setitem__(0, [-1, 1, "TorchVision", ["resnet50"]]), "would call"),
        (lambda c: c["yaml"]["scales"].update(n=[0.5, 16, 2**20]), "computes far more"),
        (lambda c: c.update(task="../x"), "task"),
        (lambda c: c.update(names={"x": "y"}), "names"),
        (lambda c: c.update(names=["a"]), "none of yolov12_plugin.push"),
        (lambda c: c["train_args"].update(data="https://x/y.yaml"), "train_args"),
        (lambda c: c["train_args"].update(data="/etc/passwd"), "train_args"),
        (lambda c: c.pop("yaml"), "none of yolov12_plugin.push"),
        (lambda c: [c], "none of yolov12_plugin.push"),
        (lambda c: c["yaml"].update(nc=3), "builds other tensors"),
    ],
)
def test_a_config_that_is_forged(config, said, small, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = json.loads(small[1]["config.json"])
    forged = config(data)
    place(small[1] | {"config.json": json.dumps(forged if isinstance(forged, list) else data).encode()})
    with pytest.raises(CheckpointError, match=said) as e:
        y12.pull("org/name")
    assert "\n" not in str(e.value) and not (tmp_path / "executed").exists()
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (lambda t: dict(list(t.items())[1:]), "builds other tensors"),
        (lambda t: t | {"more": torch.ones(1)}, "builds other tensors"),
        (lambda t: t | {"model.0.conv.weight": torch.ones(1)}, "builds other tensors"),
        (lambda t: t | {"model.0.conv.weight": torch.full_like(t["model.0.conv.weight"], torch.nan)}, "NaN"),
    ],
)
def test_tensors_that_are_forged(tensors, said, small, place):
    place(small[1] | {"model.safetensors": safetensors.save(tensors(safetensors.load(small[1]["model.safetensors"])))})
    with pytest.raises(CheckpointError, match=said):
        y12.pull("org/name")


def test_a_pickle_in_place_of_tensors(small, place, tmp_path):
    class Executed:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    torch.save(Executed(), tmp_path / "x.pt")
    place(small[1] | {"model.safetensors": (tmp_path / "x.pt").read_bytes()})
    with pytest.raises(CheckpointError, match=r"model.safetensors cannot be read"):
        y12.pull("org/name")
    assert not (tmp_path / "executed").exists()


def test_what_others_uploaded(small, place):
    place({"model.safetensors": small[1]["model.safetensors"]})
    with pytest.raises(OSError, match="org/name was not pulled"):
        y12.pull("org/name")


def test_names_of_classes_are_text_in_the_card(small):
    net = small[0].model
    config = hub._config(net, "x") | {"names": {"0": "a | b", "1": "<script>", "2": "[x](http://y)"}}
    card = hub._card(net, {}, config, "org/name")
    assert r"a \| b" in card and "<script>" not in card and "[x]" not in card


def fused(model):
    model.model.fuse(verbose=False)


def pruned(model):
    model.model.model[0].conv = torch.nn.Conv2d(3, 8, 3, 2, 1, bias=False)


def others(model):
    model.model.yaml["backbone"][0][2] = "MyConv"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(fused, "is fused"), (pruned, "other tensors"), (others, "would call MyConv")],
)
def test_what_cannot_be_built_anew_is_not_sent(spoil, said, server):
    model = trained("yolov12n")
    spoil(model)
    with pytest.raises(CheckpointError, match=said):
        y12.push(model, "org/name")
    assert not server.branches


def test_no_model(server, tmp_path):
    with pytest.raises(CheckpointError, match=r"a dict is no model of PyTorch"):
        y12.push({}, "org/name")
    (tmp_path / "x.pt").write_text("x")
    with pytest.raises(CheckpointError, match="no checkpoint of PyTorch"):
        y12.push(tmp_path / "x.pt", "org/name")


@pytest.mark.parametrize("missing", ["huggingface_hub", "safetensors"])
def test_how_it_is_installed(missing, monkeypatch):
    monkeypatch.setattr(hub, "find_spec", lambda name: None if name == missing else object())
    for call in (lambda: y12.pull("org/name"), lambda: y12.push("best.pt", "org/name")):
        with pytest.raises(NotRunnable, match=rf'{missing} is not installed: pip install "yolov12-plugin\[hub\]"'):
            call()
