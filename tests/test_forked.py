"""What tests take for a process of its own is one."""

import multiprocessing
import os
import subprocess
import sys

import forked
import pytest

pytestmark = pytest.mark.process

CODE = """
import atexit, multiprocessing, os, sys
atexit.register(print, "at exit")
print(sys.argv[1:], os.getcwd(), os.environ["MARK"], "INHERITED" in os.environ, "ultralytics" in sys.modules)
print(multiprocessing.get_start_method())
import ultralytics.nn.tasks, yolov12_plugin as y12
print(y12.is_registered(), __name__)
print("aside", file=sys.stderr)
"""


@pytest.mark.parametrize("plugin", ["on", "off"])
def test_what_a_process_is_given(fork, tmp_path, monkeypatch, plugin):
    monkeypatch.setenv("INHERITED", "1")
    done = fork([sys.executable, "-c", CODE, "a", "b"], MARK="mine", YOLO12_PLUGIN=plugin)
    assert done.stdout.splitlines() == [
        f"['a', 'b'] {tmp_path} mine True False",
        multiprocessing.get_start_method(),
        f"{plugin == 'on'} __main__",
        "at exit",
    ]
    assert done.stderr.splitlines() == ["aside"]
    monkeypatch.delenv("INHERITED")
    assert " False False" in fork([sys.executable, "-c", CODE, "a"], MARK="mine").stdout
    assert "MARK" not in os.environ


@pytest.mark.parametrize(
    "code, returncode, last",
    [
        ("pass", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('one line')", 1, "one line"),
        ("raise ValueError('why')", 1, "ValueError: why"),
        ("import os; os._exit(9)", 9, ""),
        pytest.param("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15, "", marks=pytest.mark.skipif(
            sys.platform == "win32", reason="Windows has no signals")),
    ],
)  # fmt: skip
def test_how_a_process_ends(fork, code, returncode, last):
    done = fork(code, check=False)
    assert done.returncode == returncode
    assert done.stderr.strip().endswith(last) and bool(done.stderr) == bool(last)


def test_modules_and_scripts(fork, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys; print(__name__, sys.argv)")
    assert fork([sys.executable, script, "a"]).stdout == f"__main__ {[str(script), 'a']}\n"
    assert fork([sys.executable, "-m", "platform", "terse"]).stdout.startswith(sys.platform.capitalize()[:5])


def test_process_that_does_not_end(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        forked.run([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, dict(os.environ), 0.5)
