"""Processes for tests that do not try the start of one: forked where PyTorch is imported, which takes seconds."""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

# What every training imports, Ultralytics and the plugin left out: a process registers by its own environment.
PRELOADED = ["torch._inductor.config", "torchvision"]


def start(
    command: list[str], cwd: Path, env: dict[str, str], timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def run(
    command: list[str], cwd: Path, env: dict[str, str], timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """As `start`, of Python with `-c`, `-m` or a script, or of a script that is installed beside Python."""
    if sys.platform != "linux":  # a fork is not safe there, or there is none
        return start(command, cwd, env, timeout)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        out, err = (Path(folder, name) for name in ("out", "err"))
        process = context.Process(target=interpret, args=(command, cwd, env, out, err))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout, out.read_bytes(), err.read_bytes())
        return subprocess.CompletedProcess(command, process.exitcode, out.read_text(), err.read_text())


def interpret(command: list[str], cwd: Path, env: dict[str, str], out: Path, err: Path) -> None:
    multiprocessing.set_start_method(None, force=True)  # this one's own processes start as anywhere
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, file in enumerate((out, err), 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    python = command[0] == sys.executable
    _, *sys.argv = command if python else [sys.executable, *command]
    try:
        if sys.argv[0] == "-c":
            code = sys.argv.pop(1)
            main = sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), main.__dict__)
        elif sys.argv[0] == "-m":
            del sys.argv[0]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing leaves them out
