"""Every file is written whole, or not at all."""

import errno
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from yolov12_plugin.errors import (
    CheckpointError,
    ExportError,
    NotRunnable,
    PluginError,
    ResultsError,
    RunError,
    first_line,
)
from yolov12_plugin.files import STALE, UNFINISHED, adding, beside, check_folder, check_place, replacing, write_text


def test_a_file_is_there_when_it_is_whole(tmp_path):
    file = tmp_path / "record.json"
    with replacing(file) as part:
        part.write_text("new")
        assert not file.exists() and part.name == file.name and part.parent.parent == tmp_path
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


def content(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(params=["new", "there"])
def folder(tmp_path, request):
    folder = tmp_path / "made" / "folder"
    if request.param == "there":
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("old")
        (folder / "kept.txt").write_text("kept")
    return folder


def add(folder, then=None):
    with adding(folder) as part:
        (part / "1").mkdir()
        for name in "1/within.txt", "a.txt", "b.txt":
            (part / name).write_text("new")
        assert "1/within.txt" not in content(folder)
        if then:
            raise then


def test_files_come_into_a_folder_together(folder, tmp_path):
    kept = {name: text for name, text in content(folder).items() if name == "kept.txt"}
    add(folder)
    assert content(folder) == kept | dict.fromkeys(("1/within.txt", "a.txt", "b.txt"), "new")
    assert not list(tmp_path.rglob(f"{UNFINISHED}*"))


def test_a_folder_stays_as_it_was(folder, tmp_path, monkeypatch):
    before, replace, calls = content(tmp_path), os.replace, []

    def full(*args):
        calls.append(args)
        if len(calls) == 3:  # a folder and a file are there already
            raise OSError(28, "No space left on device")
        replace(*args)

    with pytest.raises(KeyboardInterrupt):
        add(folder, KeyboardInterrupt)
    if folder.exists():
        monkeypatch.setattr("os.replace", full)
        with pytest.raises(OSError, match="No space"):
            add(folder)
    assert content(tmp_path) == before and not list(tmp_path.rglob(f"{UNFINISHED}*")) and not (folder / "1").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_private_file_is_private_while_it_is_written(tmp_path):
    file = tmp_path / "record.json"
    file.write_text("old")
    file.chmod(0o600)
    with replacing(file) as part:
        part.write_text("new")
        assert stat.S_IMODE(part.parent.stat().st_mode) == 0o700
    assert file.read_text() == "new" and stat.S_IMODE(file.stat().st_mode) == 0o600
    with replacing(tmp_path / "new.json") as part:
        part.write_text("")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new.json").stat().st_mode) == 0o666 & ~umask


def test_a_folder_that_is_missing_is_said_of_the_file(tmp_path):
    with pytest.raises(FileNotFoundError) as e, replacing(tmp_path / "none/record.json"):
        pass
    assert e.value.filename == str(tmp_path / "none/record.json")


@pytest.mark.parametrize(
    "name, why",
    [
        ("none/a.png", r"a\.png cannot be written: there is no folder .*none: make it, or name a file elsewhere"),
        ("folder", "folder cannot be written: it is a folder: name a file in it"),
        ("file/a.png", r"a\.png cannot be written: .*file is no folder: name a file elsewhere"),
        ("a.png", r"a\.png cannot be written: the folder .* is read-only: name a file elsewhere"),
        ("file", "file cannot be written: the folder .* is read-only: name a file elsewhere"),
    ],
)
def test_what_is_in_the_way_of_a_file_is_said(tmp_path, monkeypatch, name, why):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "access", lambda place, mode: os.fspath(place) != os.fspath(tmp_path))
    with pytest.raises(NotRunnable, match=why):
        check_place(tmp_path / name)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_device_is_written_to_wherever_it_lies(monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, mode: os.fspath(place) != "/dev")
    check_place(Path("/dev/null"))


def test_a_read_only_folder_is_said_to_be_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(PermissionError, match=r"is read-only: name another folder"):
        check_folder(tmp_path / "new")


def test_what_the_system_says_of_a_file_is_put_in_words():
    with pytest.raises(OSError) as e:
        Path("missing.pt").read_bytes()
    assert first_line(e.value) == "missing.pt does not exist"
    assert first_line(PermissionError(13, "Permission denied", "weights")) == "weights: Permission denied"
    assert first_line(OSError("of our own\nand more")) == "of our own"


@pytest.mark.parametrize("age, left", [(STALE - 60, True), (STALE + 60, False)])
def test_what_a_killed_process_left_goes_a_day_later(tmp_path, monkeypatch, age, left):
    """And what else lies there stays, however old."""
    (tmp_path / f"{UNFINISHED}abc/new").mkdir(parents=True)
    (tmp_path / f"{UNFINISHED}abc/new/half.pt").touch()
    (tmp_path / ".other").mkdir()
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + age)
    write_text(tmp_path / "record.json", "")
    assert (tmp_path / f"{UNFINISHED}abc").exists() == left and (tmp_path / ".other").is_dir()


@pytest.mark.skipif(os.name == "nt", reason="links are not everybody's on Windows")
def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / f"{UNFINISHED}link").symlink_to(tmp_path / "kept")
    monkeypatch.setattr("time.time", lambda: 2**40)
    with beside(tmp_path / "here/file") as folder:
        assert folder.parent == tmp_path / "here"
    assert (tmp_path / "kept/file").exists()


def test_a_read_only_file_system_is_said_of_the_file(tmp_path, monkeypatch):
    def refused(**options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/some/temporary/name")

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    with pytest.raises(OSError) as e:
        write_text(tmp_path / "record.json", "")
    assert first_line(e.value) == f"{tmp_path / 'record.json'}: Read-only file system"


def test_eight_writers_at_once(tmp_path):
    """One of them is the last, and whole."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_text(tmp_path / "record.json", f"{i}" * 9999), range(8)))
    text = (tmp_path / "record.json").read_text()
    assert len(text) == 9999 and len(set(text)) == 1 and os.listdir(tmp_path) == ["record.json"]
