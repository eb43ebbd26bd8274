"""What the package imports is what pyproject.toml declares: nothing comes by way of another package alone."""

import ast
import re
import sys
from importlib.metadata import packages_distributions

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OF_OTHERS = {
    "cv2": "Ultralytics requires opencv-python",
    "pytorch_grad_cam": "grad-cam requires opencv-python-headless, which would lie over Ultralytics'",
}
OTHER_NAMES = {"modelopt": "nvidia-modelopt", "tensorrt_rtx": "tensorrt-rtx-cu13"}  # of what may not be installed


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements):
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def imports(source):
    """Each package that a source imports, and whether it does when it is imported itself."""
    tree = ast.parse(source)
    within = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.Try)) for n in ast.walk(f)}
    for node in ast.walk(tree):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [node.module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        for name in found:
            yield name.split(".")[0], id(node) not in within


def third_party():
    """Each package that is neither of Python nor the plugin: whether it must be there, and its distributions."""
    found = {}
    for file in (ROOT / "yolov12_plugin").rglob("*.py"):
        for name, at_once in imports(file.read_text(encoding="utf-8")):
            if name not in {*sys.stdlib_module_names, "yolov12_plugin", *OF_OTHERS}:
                found[name] = found.get(name, False) or at_once
    installed = packages_distributions()
    for name, at_once in found.items():
        yield name, at_once, {canonicalize_name(d) for d in installed.get(name, [OTHER_NAMES.get(name, name)])}


# Runtimes that are installed without what they require, as a user is told: MNN's brings a protobuf that onnx does not take.
BY_HAND = {"ncnn", "mnn"}


def test_what_is_imported_is_declared(project):
    required = names(project["dependencies"])
    optional = names(line for extra in project["optional-dependencies"].values() for line in extra)
    for name, at_once, distributions in third_party():
        assert distributions & (required if at_once else required | optional | BY_HAND), name


def test_what_is_declared_is_imported(project):
    used = set().union(*(distributions for _, _, distributions in third_party()))
    assert names(project["dependencies"]) <= used


def test_an_import_is_seen_wherever_it_is():
    source = "import a.b\ndef f():\n    from c import d\n    importlib.import_module('e.f')\ntry:\n    import g\nexcept: ...\n"
    assert dict(imports(source)) == {"a": True, "c": False, "e": False, "g": False}


def test_the_tensorrt_extras_install_on_a_mac(project):
    for extra in "tensorrt", "tensorrt-rtx":
        needed = [Requirement(line) for line in project["optional-dependencies"][extra]]
        on_mac = {r.name for r in needed if r.marker is None or r.marker.evaluate({"sys_platform": "darwin"})}
        assert on_mac and not any(re.match("tensorrt", name) for name in on_mac)
        assert any(r.name.startswith("tensorrt") for r in needed)


def test_pythons_are_those_that_the_matrix_runs(project):
    versions = re.search(r"VERSIONS = \((.*)\)", (ROOT / ".ci/matrix").read_text(encoding="utf-8"))[1]
    listed = [c.rpartition(" ")[2] for c in project["classifiers"] if re.fullmatch(r".*Python :: 3\.\d+", c)]
    assert listed == re.findall(r"[\d.]+", versions)
