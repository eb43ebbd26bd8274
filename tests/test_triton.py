"""Model folders for NVIDIA Triton: what Triton's own messages read of them, and what Ultralytics' client predicts."""

import ast
import json
import shutil
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ultralytics import YOLO
from ultralytics.utils import ASSETS

from yolov12_plugin.deploy.triton import export_triton, quote
from yolov12_plugin.errors import CheckpointError, ExportError

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

NAMES = {0: 'the "5\' 3"" board', 1: "back\\slash \\n", 2: "two\nlines\t\0", 3: "猫 😀 é", 4: "'''{}: }"}


def parse(text):
    """config.pbtxt as Triton reads it."""
    reason = "Triton's messages: pip install tritonclient[grpc]"
    messages = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason=reason)
    from google.protobuf import text_format

    return text_format.Parse(text, messages.ModelConfig())


@pytest.fixture(scope="module")
def model():
    """A detector whose class names are hard to write."""
    model = YOLO("yolov12n.yaml", verbose=False)
    model.model.names = {i: NAMES.get(i, f"class {i}") for i in range(80)}
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return export_triton(model, tmp_path_factory.mktemp("repository"), name="yolov12n", imgsz=160, max_batch=4)


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@given(st.text())
def test_quoted(text):
    assert parse(f"name: {quote(text)}".encode()).name == text


@given(st.dictionaries(st.integers(), st.text(st.characters())))  # lone surrogates, too
def test_quoted_metadata(names):
    assert ast.literal_eval(parse(f"name: {quote(repr(names))}".encode()).name) == names


@pytest.mark.export
def test_configuration(exported):
    assert files(exported) == ["1/model.onnx", "config.pbtxt"]
    config = parse((exported / "config.pbtxt").read_bytes())
    assert (config.name, config.platform, config.max_batch_size) == ("yolov12n", "onnxruntime_onnx", 4)
    session = onnxruntime.InferenceSession(exported / "1/model.onnx")
    for told, tensors in (config.input, session.get_inputs()), (config.output, session.get_outputs()):
        assert [t.name for t in told] == [t.name for t in tensors]
        for t, tensor in zip(told, tensors):
            assert [-1, *t.dims] == [-1 if isinstance(d, str) else d for d in tensor.shape]
            assert (
                t.data_type
                == told[0].DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name["TYPE_FP32"].number
            )
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, config.instance_group[0].KIND_AUTO)]
    metadata = ast.literal_eval(config.parameters["metadata"].string_value)
    assert {i: metadata["names"][i] for i in NAMES} == NAMES
    assert (metadata["task"], metadata["imgsz"], metadata["args"]["dynamic"]) == ("detect", [160, 160], True)


@pytest.fixture
def serve():
    """Serve a model folder in Triton's protocol (KServe v2, binary tensors); gives its URL and the runs' shapes."""
    client = pytest.importorskip("tritonclient.http", reason="Triton's client: pip install tritonclient[http]")
    from google.protobuf import json_format
    from tritonclient.utils import triton_to_np_dtype

    assert client
    servers = []

    def serve(folder):
        config = parse((folder / "config.pbtxt").read_bytes())
        session = onnxruntime.InferenceSession(folder / "1/model.onnx")
        path, shapes = f"/v2/models/{folder.name}", []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                assert self.path == f"{path}/config"
                # its 64-bit integers are strings, as Triton's are
                self.answer(json_format.MessageToJson(config, preserving_proto_field_name=True).encode())

            def do_POST(self):
                assert self.path == f"{path}/infer"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                end = int(self.headers["Inference-Header-Content-Length"])
                request = json.loads(body[:end])
                (tensor,) = request["inputs"]
                batch, *dims = tensor["shape"]
                (told,) = config.input
                fits = all(d in (-1, n) for d, n in zip(told.dims, dims)) and len(dims) == len(told.dims)
                if batch > config.max_batch_size or not fits or tensor["name"] != told.name:
                    return self.answer(json.dumps({"error": f"unexpected shape {tensor['shape']}"}).encode(), code=400)
                images = np.frombuffer(body[end:], triton_to_np_dtype(tensor["datatype"])).reshape(tensor["shape"])
                shapes.append(images.shape)
                names = [output["name"] for output in request["outputs"]]
                arrays = dict(zip(names, session.run(names, {tensor["name"]: images})))
                assert all(array.dtype == np.float32 and len(array) == batch for array in arrays.values())
                head = json.dumps({
                    "model_name": folder.name,
                    "outputs": [
                        dict(name=n, datatype="FP32", shape=a.shape, parameters=dict(binary_data_size=a.nbytes))
                        for n, a in arrays.items()
                    ],
                }).encode()  # fmt: skip
                data = b"".join(a.tobytes() for a in arrays.values())
                self.answer(head + data, **{"Inference-Header-Content-Length": len(head)})

            def answer(self, body, code=200, **headers):
                self.send_response(code)
                for key, value in {"Content-Length": len(body), **headers}.items():
                    self.send_header(key, str(value))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/{folder.name}", shapes

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def same(actual, expected):
    """Two lists of results are of the same arrays, and not empty."""
    for one, other in zip(actual, expected, strict=True):
        assert one.names == other.names
        found = [key for key in ("boxes", "masks", "keypoints", "obb", "probs") if getattr(other, key) is not None]
        assert found
        for key in found:
            ours, theirs = getattr(one, key).data, getattr(other, key).data
            assert len(theirs) > 0
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.export
def test_client(exported, serve):
    """Ultralytics' client: an image, images of one shape and of several, all in one request, and too many."""
    url, shapes = serve(exported)
    remote, local = YOLO(url, task="detect"), YOLO(exported / "1/model.onnx", task="detect")
    bus, zidane = ASSETS / "bus.jpg", ASSETS / "zidane.jpg"
    options = dict(conf=0.0, max_det=20, imgsz=160, batch=4, verbose=False)
    for source in [bus], [zidane, zidane, zidane], [bus, zidane, bus, zidane]:
        results = remote.predict(source, **options)
        assert shapes[-1][0] == len(source)
        same(results, local.predict(source, **options))
        options["rect"] = (
            len(set(source)) == 1
        )  # images of several shapes are padded to squares; one of them, then, too
        same(results, [one for image in source for one in remote.predict(image, **options)])
        assert shapes[-1][0] == 1 and {i: results[0].names[i] for i in NAMES} == NAMES
    assert len({shape[1:] for shape in shapes}) == 3
    with pytest.raises(Exception, match="unexpected shape"):
        remote.predict([bus] * 5, **{**options, "batch": 5})


@pytest.mark.export
@pytest.mark.parametrize(
    ("yaml", "options"),
    [
        ("yolov12n-seg.yaml", {}),
        ("yolov12n-cls.yaml", {}),
        ("yolo11n-pose.yaml", {}),
        ("yolo11n-obb.yaml", {}),
        ("yolov10n.yaml", {}),
        ("yolov12n.yaml", dict(nms=True, conf=1e-9)),
        ("yolov12n.yaml", dict(half=True)),
    ],
)
def test_tasks(yaml, options, tmp_path, serve):
    try:
        folder = export_triton(yaml, tmp_path, imgsz=160, max_batch=3, **options)
    except ExportError as e:
        if "GPU only" not in str(e) and "torch.export" not in str(e):
            raise
        pytest.skip(f"older Ultralytics: {str(e)[:90]}")
    assert folder == tmp_path / Path(yaml).stem
    url, shapes = serve(folder)
    task = ast.literal_eval(parse((folder / "config.pbtxt").read_bytes()).parameters["metadata"].string_value)["task"]
    images = [ASSETS / "bus.jpg", ASSETS / "zidane.jpg"]
    results = []
    for model in url, folder / "1/model.onnx":
        # many, as Ultralytics drops an object whose mask is empty: all of an untrained network's first 20, by chance
        results.append(YOLO(model, task=task).predict(images, conf=0.0, max_det=200, imgsz=160, batch=2, verbose=False))
    same(*results)
    assert shapes[-1][0] == 2


@pytest.mark.export
def test_what_an_exported_file_says(model, exported, tmp_path):
    """Served as it is; the client is told where its sides are fixed, and what has no batch axis is refused."""
    import onnx

    again = export_triton(exported / "1/model.onnx", tmp_path, name="again")
    assert files(again) == files(exported)
    assert onnx.load(again / "1/model.onnx") == onnx.load(exported / "1/model.onnx")
    assert parse((again / "config.pbtxt").read_bytes()).max_batch_size == 16
    graph = onnx.load(exported / "1/model.onnx")
    dims = graph.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_value, dims[3].dim_value = 160, 160
    onnx.save(graph, tmp_path / "sides.onnx", save_as_external_data=True)
    onnxruntime.InferenceSession(export_triton(tmp_path / "sides.onnx", tmp_path, name="whole") / "1/model.onnx")
    config = parse((export_triton(YOLO(tmp_path / "sides.onnx"), tmp_path) / "config.pbtxt").read_bytes())
    assert config.name == "sides" and config.input[0].dims == [3, 160, 160]
    assert ast.literal_eval(config.parameters["metadata"].string_value)["args"]["dynamic"] is False
    before = files(tmp_path)
    dims[0].dim_value = 1
    onnx.save(graph, tmp_path / "sides.onnx")
    with pytest.raises(ExportError, match=r"fixed batch of 1.*dynamic=True"):
        export_triton(tmp_path / "sides.onnx", tmp_path, name="fixed")
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "sides.onnx")
    with pytest.raises(ExportError, match="no export of this Ultralytics"):
        export_triton(tmp_path / "sides.onnx", tmp_path, name="foreign")
    (tmp_path / "sides.onnx").write_bytes(b"\xff" * 99)
    with pytest.raises(ExportError, match="no ONNX graph"):
        export_triton(tmp_path / "sides.onnx", tmp_path, name="broken")
    with pytest.raises(ExportError, match="exported already"):
        export_triton(tmp_path / "sides.onnx", tmp_path, name="half", half=True)
    assert files(tmp_path) == before


def test_engine(tmp_path):
    """The engine without what Ultralytics writes before it; Triton reads its tensors."""
    metadata = dict(task="detect", names=NAMES, stride=32, imgsz=[640, 640], batch=8, args=dict(dynamic=True))
    file = tmp_path / "best v1.2.engine"

    def write(metadata, plan=b"ftrt\0plan"):
        head = json.dumps(metadata).encode()
        file.write_bytes(len(head).to_bytes(4, "little") + head + plan)

    write(metadata)
    folder = export_triton(file, tmp_path)
    assert folder.name == "best_v1_2" and files(folder) == ["1/model.plan", "config.pbtxt"]
    assert (folder / "1/model.plan").read_bytes() == b"ftrt\0plan"
    config = parse((folder / "config.pbtxt").read_bytes())
    assert (config.platform, config.max_batch_size, len(config.input)) == ("tensorrt_plan", 8, 0)
    names = ast.literal_eval(config.parameters["metadata"].string_value)["names"]
    assert {int(i): name for i, name in names.items()} == NAMES
    write(metadata | dict(args={}))
    with pytest.raises(ExportError, match="fixed batch of 8"):
        export_triton(file, tmp_path, name="fixed")
    write(metadata | dict(args="dynamic"))
    for content in (
        file.read_bytes(),
        b"",
        b"ftrt" * 9,
        (9).to_bytes(4, "little") + b"ftrt" * 9,
        (2).to_bytes(4, "little") + b"[]plan",
    ):
        file.write_bytes(content)
        with pytest.raises(ExportError, match="no export of this Ultralytics"):
            export_triton(file, tmp_path, name="foreign")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best v1.2.engine", "best_v1_2"]


@pytest.mark.export
def test_versions(exported, tmp_path, monkeypatch):
    """A name that is taken is kept, or gets its next version; where writing fails, all is as it was."""
    source = exported / "1/model.onnx"
    folder = export_triton(source, tmp_path, name="a", max_batch=1)
    with pytest.raises(FileExistsError, match="force=True"):
        export_triton(source, tmp_path, name="a")
    assert export_triton(source, tmp_path, name="a", max_batch=2, force=True) == folder
    assert files(tmp_path) == ["a/1/model.onnx", "a/2/model.onnx", "a/config.pbtxt"]
    config = (folder / "config.pbtxt").read_text(encoding="utf-8")
    assert "max_batch_size: 2\n" in config

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    for broken in "pathlib.Path.write_text", "pathlib.Path.write_bytes", "os.replace":
        with monkeypatch.context() as m:
            m.setattr(broken, full)
            for name in ("a",) if broken == "os.replace" else ("a", "b"):
                with pytest.raises(OSError, match=rf"No space .*: '{tmp_path / name}'"):
                    export_triton(source, tmp_path, name=name, force=True)
        assert files(tmp_path) == ["a/1/model.onnx", "a/2/model.onnx", "a/config.pbtxt"]
        assert [p.name for p in tmp_path.iterdir()] == ["a"] and len(list(folder.iterdir())) == 3
        assert (folder / "config.pbtxt").read_text(encoding="utf-8") == config


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a.onnx", "a b", "x_ncnn_model", "é"])
def test_names_that_the_client_would_misread(name, tmp_path):
    with pytest.raises(ExportError, match="name="):
        export_triton("yolov12n.yaml", tmp_path, name=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.export
def test_refusals(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for missing in "missing.onnx", "missing.engine", "missing.pt":
        # older Ultralytics looks for the last on the network
        with pytest.raises(OSError if missing.endswith(".pt") else FileNotFoundError):
            export_triton(missing, tmp_path)
    (tmp_path / "damaged.pt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="no checkpoint of PyTorch"):
        export_triton("damaged.pt", tmp_path)
    for folder in "file", "file/below":
        with pytest.raises(NotADirectoryError, match="file"):
            export_triton("yolov12n.yaml", folder)
    for wrong in dict(max_batch=0), dict(instances=0), dict(max_delay=-1):
        with pytest.raises(ExportError, match="positive"):
            export_triton("yolov12n.yaml", tmp_path, **wrong)
    for wrong in dict(dynamic=False), dict(no_such_option=1), dict(format="ncnn"):
        with pytest.raises(ExportError):
            export_triton("yolov12n.yaml", tmp_path, **wrong)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"yolov12-plugin\[export\]"):
        export_triton("yolov12n.yaml", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged.pt", "file"]


@pytest.mark.export
def test_a_model_is_left_as_it_was(model, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "my best.pt"
    model.save(weights)
    before = files(tmp_path)
    loaded = YOLO(weights)
    state = {key: value.clone() for key, value in loaded.model.state_dict().items()}
    folder = export_triton(loaded, tmp_path / "new" / "repository", imgsz=64)
    assert folder == tmp_path / "new/repository/my_best"
    assert loaded.model.pt_path == str(weights) and not hasattr(model.model, "pt_path")
    assert all(value.equal(state[key]) for key, value in loaded.model.state_dict().items())
    shutil.rmtree(tmp_path / "new")
    assert files(tmp_path) == before
