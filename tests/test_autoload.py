"""Start-up, and the processes that a training starts."""

import os
import sys
import textwrap
from itertools import product

import pytest
import ultralytics

STARTED = "import sys; print(*sorted(m for m in sys.modules if m.startswith(('yolov12', 'torch', 'ultralytics'))))"


def test_start_up_imports_two_small_modules_and_no_torch(run):
    assert run(STARTED).stdout.split() == ["yolov12_plugin", "yolov12_plugin.autoload"]


def test_start_up_brings_no_module_of_the_standard_library(run):
    """What the plugin adds to a bare start: itself. (-S runs no .pth file; site.main() then runs them.)"""
    code = "import sys, site; before = set(sys.modules); site.main(); print(*sorted(set(sys.modules) - before))"
    on = run([sys.executable, "-S", "-c", code]).stdout.split()
    off = run([sys.executable, "-S", "-c", code.replace("site.main()", "exec('''\nimport builtins\nreal = __import__\n"
              "def no(name, *a, **k):\n if name.startswith('yolov12'): raise ImportError(name)\n"
              " return real(name, *a, **k)\nbuiltins.__import__ = no\nsite.main()\n''')")]).stdout.split()  # fmt: skip
    assert set(on) - set(off) == {"yolov12_plugin", "yolov12_plugin.autoload"}


def test_one_finder_although_site_runs_twice_in_a_venv(run):
    run("import sys, yolov12_plugin.autoload as a\na.install(); a.install()\nassert sys.meta_path.count(a.Finder) == 1")


def test_off_installs_nothing(run):
    run("import sys, yolov12_plugin.autoload as a; assert a.Finder not in sys.meta_path", YOLO12_PLUGIN="off")


def test_looking_for_ultralytics_without_importing_it(run):
    run(
        "import importlib.util as u; s = u.find_spec('ultralytics.utils.checks')\n"
        "import yolov12_plugin as y12; from ultralytics import YOLO\n"
        "assert y12.is_registered()"
    )


def test_ultralytics_that_fails_to_import_fails_as_itself(run):
    out = run("import sys; sys.modules['cv2'] = None\nimport ultralytics.nn.tasks", check=False)
    assert "cv2" in out.stderr.splitlines()[-1] and "yolov12" not in out.stderr


HOOKS = {
    "as wrapt does": """
class Loader:
    def __init__(self, loader): self.loader = loader
    def create_module(self, spec): return self.loader.create_module(spec)
    def exec_module(self, module): return self.loader.exec_module(module)
    def __getattr__(self, name): return getattr(self.loader, name)
class Hook:
    def __init__(self): self.looking = set()
    def find_spec(self, name, path=None, target=None):
        if name in self.looking: return None
        self.looking.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.looking.remove(name)
        if spec and spec.loader and not isinstance(spec.loader, Loader) and hasattr(spec.loader, "exec_module"):
            spec.loader = Loader(spec.loader)
        return spec
""",
    "without itself on the list": """
class Hook:
    def find_spec(self, name, path=None, target=None):
        at = sys.meta_path.index(self)
        del sys.meta_path[at]
        try:
            return importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(at, self)
""",
    "once for all": """
class Hook:
    found = {}
    def find_spec(self, name, path=None, target=None):
        if not name.startswith("ultralytics"): return None
        if name not in self.found:
            self.found[name] = importlib.machinery.PathFinder.find_spec(name, path, target)
        return self.found[name]
""",
    "with a method of its own on the loader": """
class Hook:
    def find_spec(self, name, path=None, target=None):
        finders = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next((spec for f in finders if (spec := f.find_spec(name, path, target))), None)
        if spec and name.startswith("ultralytics") and hasattr(spec.loader, "exec_module"):
            load = spec.loader.exec_module
            def exec_module(module):
                del spec.loader.exec_module
                load(module)
            spec.loader.exec_module = exec_module
        return spec
""",
}
PLACES = {
    "before it": "sys.meta_path.insert(0, Hook())",
    "behind it": "sys.meta_path.insert(sys.meta_path.index(a.Finder) + 1, Hook())",
    "last": "sys.meta_path.append(Hook())",
    "earlier": "a.uninstall(); sys.meta_path.insert(0, Hook()); a.install()",
}


@pytest.mark.parametrize(
    "asks, place",
    [
        *product(["as wrapt does"], PLACES),
        *product(["without itself on the list"], ["before it", "last"]),
        *product(["with a method of its own on the loader"], ["before it", "behind it"]),
        *product(["once for all"], ["behind it", "last"]),
    ],
)
def test_beside_a_hook_that_changes_loaders(run, asks, place):
    """Or keeps specs, or leaves the list of finders as it asks them: beside the simpler ones of test_registry.py."""
    start = "import importlib.machinery, importlib.util, sys, yolov12_plugin.autoload as a"
    add = f"{start}\n{HOOKS[asks]}\n{PLACES[place]}\n"
    looked = "importlib.util.find_spec('ultralytics.utils.checks')\n"
    out = run(add + looked + "from ultralytics import YOLO; YOLO('yolov12n.yaml', verbose=False)\n"
              "import yolov12_plugin as y12; assert y12.is_registered()\n"
              "assert a.Finder not in sys.meta_path")  # fmt: skip
    assert "yolov12-plugin" not in out.stderr


BUILD = """
from ultralytics import YOLO

def build():
    YOLO("yolov12n.yaml", verbose=False)
    import yolov12_plugin
    assert yolov12_plugin.is_registered()
"""


def test_spawned_children(run, tmp_path):
    script = tmp_path / "spawn.py"
    script.write_text(
        BUILD
        + textwrap.dedent(
            """
            if __name__ == "__main__":
                import multiprocessing
                child = multiprocessing.get_context("spawn").Process(target=build)
                child.start()
                child.join()
                raise SystemExit(child.exitcode)
            """
        )
    )
    run([sys.executable, script])


def test_torch_distributed_workers(run, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(BUILD + "\nbuild()\nimport os; print('rank', os.environ['RANK'], 'done')\n")
    out = run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29765", script])
    assert "rank 0 done" in out.stdout and "rank 1 done" in out.stdout


@pytest.mark.train
@pytest.mark.process
@pytest.mark.skipif(ultralytics.__version__ < "8.4.1", reason="this release runs its script on GPUs only")
def test_ultralytics_own_ddp_script(run, tmp_path):
    """The script that Ultralytics writes for several GPUs, run as it runs it, with one worker on the CPU."""
    script = tmp_path / "launch.py"
    script.write_text(
        textwrap.dedent(
            """
            import subprocess, sys
            from ultralytics import YOLO
            from ultralytics.models.yolo.detect import DetectionTrainer
            from ultralytics.utils.dist import ddp_cleanup, generate_ddp_command

            overrides = dict(model="yolov12n.yaml", data="shapes.yaml", imgsz=32, epochs=1, batch=16, device="cpu",
                             workers=0, plots=False, project=sys.argv[1], name="ddp")
            trainer = DetectionTrainer(overrides=overrides)
            command, file = generate_ddp_command(trainer)
            command[command.index("--nproc_per_node") + 1] = "1"
            print(open(file).read())
            try:
                subprocess.run(command, check=True)
            finally:
                ddp_cleanup(trainer, file)
            """
        )
    )
    out = run([sys.executable, script, tmp_path])
    assert "ultralytics.nn.modules.block.A2C2f" in out.stdout + out.stderr
    assert (tmp_path / "ddp/weights/last.pt").is_file()


HOSTILE = """
import pathlib
pathlib.Path(__file__).with_name("imported").touch()
"""


@pytest.fixture
def hostile(tmp_path):
    """A working directory with packages of our names, each of whose modules leaves a mark where it is imported."""
    for package in "yolov12_plugin", "ultralytics":
        (tmp_path / package).mkdir()
        for module in "__init__", "autoload", "registry":
            (tmp_path / package / f"{module}.py").write_text(HOSTILE)
    return tmp_path


SAFE = ["-P"] if sys.version_info >= (3, 11) else []


@pytest.mark.parametrize(
    "flags", [[], ["-I"], ["-S"], ["-E"], ["-s"], SAFE, [*SAFE, "-S"], ["-OO"], ["-W", "error"]], ids=" ".join
)
@pytest.mark.parametrize(
    "env", [{}, {"PYTHONSAFEPATH": "1"}, {"PYTHONPATH": os.path.dirname(os.__file__)}], ids="".join
)
def test_start_up_imports_nothing_of_the_working_directory(run, hostile, flags, env):
    """Whose modules Python finds only when it runs, of a command, a script or standard input, not when it starts."""
    (hostile / "script.py").write_text("pass")
    for command in ["-c", "pass"], ["script.py"], ["-m", "this"]:
        done = run([sys.executable, *flags, *command], **env)
        assert not done.stderr and not list(hostile.rglob("imported"))


@pytest.mark.parametrize("flags", [[], SAFE], ids=" ".join)
def test_start_up_follows_the_path_that_the_user_names(run, hostile, flags):
    """A working directory on PYTHONPATH is where this Python imports from, its own sitecustomize too."""
    (hostile / "sitecustomize.py").write_text("print('customised')")
    done = run([sys.executable, *flags, "-c", "pass"], PYTHONPATH=str(hostile))
    assert done.stdout == "customised\n"
    done = run([sys.executable, "-I", "-c", "pass"], PYTHONPATH=str(hostile))
    assert not done.stdout


def test_an_ultralytics_of_the_working_directory_is_left_to_python(run, hostile):
    """It is imported where a plain Python imports it, and brings in nothing else of that folder."""
    done = run([sys.executable, "-c", "import ultralytics; print(ultralytics.__file__)"])
    assert done.stdout.strip() == str(hostile / "ultralytics/__init__.py")
    assert list(hostile.rglob("imported")) == [hostile / "ultralytics/imported"]
    if SAFE:
        (hostile / "ultralytics/imported").unlink()
        done = run([sys.executable, *SAFE, "-c", "import ultralytics; print(ultralytics.__file__)"])
        assert str(hostile) not in done.stdout and not list(hostile.rglob("imported"))
