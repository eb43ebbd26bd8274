"""Every file is written whole, or not at all."""

import os
import stat

import pytest

from yolov12_plugin.errors import CheckpointError, ExportError, NotRunnable, PluginError, ResultsError, RunError
from yolov12_plugin.files import replacing, write_text


def test_a_file_is_there_when_it_is_whole(tmp_path):
    file = tmp_path / "record.json"
    with replacing(file) as part:
        part.write_text("new")
        assert not file.exists() and part.suffix == ".json" and part.parent == tmp_path
    assert file.read_text() == "new" and os.listdir(tmp_path) == ["record.json"]


@pytest.mark.parametrize("there", [True, False])
def test_what_fails_leaves_things_as_they_were(tmp_path, there):
    file = tmp_path / "record.json"
    if there:
        file.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(file) as part:
        part.write_text("ne")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == (["record.json"] if there else [])
    assert not there or file.read_text() == "old"


def test_nothing_written_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "record.json"):
        pass
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_links_and_permissions_stay(tmp_path):
    (tmp_path / "kept").mkdir()
    file, link = tmp_path / "kept/record.json", tmp_path / "record.json"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    write_text(link, "new")
    assert link.is_symlink() and file.read_text() == "new" and stat.S_IMODE(file.stat().st_mode) == 0o640
    link.unlink()
    link.symlink_to(tmp_path / "kept/later.json")
    write_text(link, "first")
    assert link.is_symlink() and (tmp_path / "kept/later.json").read_text() == "first"


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="a pipe has no name here")
def test_devices_are_written_to(tmp_path):
    read, write = os.pipe()
    with os.fdopen(read) as end, os.fdopen(write, "w"):
        path = tmp_path / "pipe"
        path.symlink_to(f"/proc/self/fd/{write}")
        write_text(path, "through")
        assert end.read(7) == "through"


@pytest.mark.parametrize("kind", [NotRunnable, CheckpointError, ExportError, ResultsError, RunError])
def test_errors_are_one_line(kind):
    error = kind("a.pt\nholds \x1b[2J what\tno  checkpoint holds")
    assert isinstance(error, PluginError) and str(error) == "a.pt holds ?[2J what no checkpoint holds"
