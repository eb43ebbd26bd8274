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


@pytest.mark.parametrize("name", y12.__all__)
def test_parameters_are_described(name):
    public = getattr(y12, name)
    parameters = inspect.signature(public).parameters
    section = re.search(r"\nArgs:\n(.*?)(\n\n|$)", inspect.getdoc(public), re.S)
    entries = re.findall(r"^    ([\w, ]+):", section[1], re.M) if section else []
    assert {part.strip() for entry in entries for part in entry.split(",")} == set(parameters)
