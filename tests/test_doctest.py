"""The examples in the docstrings of the public names."""

import doctest
import inspect
import re

import pytest

import yolov12_plugin as y12

EXPORTS = pytest.param("verify_export", marks=pytest.mark.export)


@pytest.mark.parametrize("name", [*(name for name in y12.__all__ if name not in EXPORTS.values), EXPORTS])
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    public = getattr(y12, name)
    assert "Examples:" in public.__doc__
    (found,) = (test for test in doctest.DocTestFinder().find(public, name, module=False, globs={}) if test.examples)
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(found)
    assert result.attempted and not result.failed


def functions():
    """The public names, and the methods of their own that a user calls: neither PyTorch nor Ultralytics does."""
    for name in y12.__all__:
        public = getattr(y12, name)
        yield pytest.param(public, id=name)
        for method, function in vars(public).items() if inspect.isclass(public) else ():
            if not method.startswith(("_", "on_")) and method not in ("forward", "teardown") and callable(function):
                yield pytest.param(function, id=f"{name}.{method}")


@pytest.mark.parametrize("public", functions())
def test_parameters_are_described(public):
    parameters = inspect.signature(public).parameters.keys() - {"self"}
    section = re.search(r"\nArgs:\n(.*?)(\n\n|$)", inspect.getdoc(public), re.S)
    entries = re.findall(r"^    ([\w, ]+):", section[1], re.M) if section else []
    assert {part.strip() for entry in entries for part in entry.split(",")} == parameters
