"""Ultralytics' own tests in two columns: stock's YOLO12 with the plugin off, and YOLOv12 with it on.

python tests/ultralytics_suite.py [--archive ultralytics-X.tar.gz] [--quick] [-k EXPRESSION] [--out FOLDER] [--record FILE]

Exits with 1 if a test that passes with the plugin off fails with it on.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from ultralytics_column import ENDED, FAMILY, Results, read, renamed

RERUNS = 2
# What needs a server in a container, which no column has.
LEFT_OUT = ("test_integrations.py::test_triton",)
# At most two minutes, of what has a model of the family trained, resumed, distilled, exported and predicted with.
QUICK = (
    "(test_engine and (DetectionTrainer or OBBTrainer or test_distill or resume and detect)"
    " or (test_export_torchscript or test_export_onnx) and not False"
    " or test_python and (test_predict or test_model or test_results or test_autobackend or test_val and detect))"
    " and not sem and not depth"
)


def differing(off: Results, on: Results) -> list[str]:
    """Tests that pass with the plugin off, and fail or are missing with it on."""
    return sorted(
        test
        for test, result in off.items()
        if result["outcome"] == "passed" and on.get(test, {}).get("outcome") not in ("passed", "skipped")
    )


def source_archive(folder: Path) -> Path:
    """The source archive of the installed Ultralytics, from the package index."""
    wanted = f"ultralytics=={version('ultralytics')}"
    pip = [
        sys.executable,
        *["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "-d"],
        str(folder),
        wanted,
    ]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if found := sorted(folder.glob("*.tar.gz")):
        return found[0]
    raise SystemExit(
        f"No source archive of {wanted}: {done.stderr.strip()[-200:]}\nDownload it, and give it as --archive."
    )


def environment(home: Path, column: str, args: argparse.Namespace) -> dict[str, str]:
    """A process without a network, whose two columns differ in the plugin and the family alone."""
    env = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | os.environ
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):  # a proxy that refuses at once
        env[name] = env[name.upper()] = "http://127.0.0.1:9" if name != "no_proxy" else "127.0.0.1,localhost"
    return env | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # the `yolo` of this environment
        "PIP_NO_INDEX": "1",
        "ULTRALYTICS_SUITE_FAMILY": FAMILY[column],
        "ULTRALYTICS_SUITE_LIMIT": str(args.limit),
        "WANDB_MODE": "disabled",
        "YOLO12_PLUGIN": column,
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": str(home / "config"),
        "YOLO_OFFLINE": "true",
    }


def unpack(archive: Path, home: Path, column: str) -> None:
    """The archive's tests, pointed at the column's family; those who lack but data are no longer skipped offline."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            inner = Path(*Path(member.name).parts[1:])
            if member.isfile() and inner.parts[:1] in (("tests",), ("pyproject.toml",)) and ".." not in inner.parts:
                file = home / "work" / inner
                file.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content
                file.write_text(renamed(content.read().decode(), FAMILY[column]).replace("not ONLINE", "False"))
    shutil.copy(Path(__file__).with_name("ultralytics_column.py"), home / "work")


def run(home: Path, column: str, args: argparse.Namespace, round_: int, wanted: list[str]) -> Results:
    """The tests of a column; where one ends or hangs the process, the next process goes on after it."""
    results = home / f"results{round_}.jsonl"
    env = environment(home, column, args) | {
        "ULTRALYTICS_SUITE_RESULTS": str(results),
        "ULTRALYTICS_SUITE_WANTED": json.dumps(wanted),
    }
    options = "-v --tb=short -o addopts= -p ultralytics_column --continue-on-collection-errors"
    command = [sys.executable, "-m", "pytest", *options.split()]
    command += [f"--deselect=tests/{test}" for test in LEFT_OUT]
    command += ["-k", args.k] if args.k else []
    while True:
        ended = sum(result["why"] == ENDED for result in read(results).values())
        with (home / f"log{round_}.txt").open("a") as log:
            process = subprocess.Popen(
                [*command, "tests"], cwd=home / "work", env=env, stdout=log, stderr=log, start_new_session=True
            )
            await_end(process, results, args.limit + 120)
        if sum(result["why"] == ENDED for result in read(results).values()) == ended:
            return read(results)


def await_end(process: subprocess.Popen[bytes], results: Path, patience: float) -> int:
    """The exit code of a process, which is killed with its children when no test has begun or ended for long."""
    try:
        while True:
            size = results.stat().st_size if results.exists() else 0
            try:
                return process.wait(patience)
            except subprocess.TimeoutExpired:
                if size == (results.stat().st_size if results.exists() else 0):
                    return -1
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def set_up(archive: Path, home: Path, column: str, args: argparse.Namespace) -> None:
    unpack(archive, home, column)
    code = f"import ultralytics_column; ultralytics_column.prepare({FAMILY[column]!r})"
    command, env = [sys.executable, "-c", code], environment(home, column, args)
    done = subprocess.run(command, cwd=home / "work", env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"Column {column}: {done.stderr.strip()[-2000:]}")


def compare(folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Both columns, and their differences: what differed in the run of all and in every run of it alone."""
    archive = args.archive or source_archive(folder)
    homes = {column: folder / column for column in FAMILY}
    with ThreadPoolExecutor(args.workers) as pool:

        def both(round_: int, wanted: list[str]) -> tuple[Results, Results]:
            off, on = pool.map(lambda column: run(homes[column], column, args, round_, wanted), FAMILY)
            return off, on

        list(pool.map(lambda column: set_up(archive, homes[column], column, args), FAMILY))
        off, on = both(0, [])
        if not any(result["outcome"] == "passed" for result in off.values()):
            log = homes["off"] / "log0.txt"
            raise SystemExit(f"No test passes with the plugin off:\n{log.read_text()[-2000:]}")
        suspects = steady = differing(off, on)
        for round_ in range(1, RERUNS + 1):
            steady = steady and [test for test in differing(*both(round_, steady)) if test in steady]
    return {
        "ultralytics": version("ultralytics"),
        "off": off,
        "on": on,
        "differences": steady,
        "unsteady": sorted(set(suspects) - set(steady)),
    }


def show(report: dict) -> None:
    outcomes = {column: Counter(result["outcome"] for result in report[column].values()) for column in FAMILY}
    print(f"Ultralytics {report['ultralytics']}, its own tests\n{'':10}{'plugin off':>12}{'plugin on':>12}")
    for outcome in ("passed", "failed", "skipped"):
        print(f"{outcome:10}{outcomes['off'][outcome]:12}{outcomes['on'][outcome]:12}")
    for title, names in (("Passes off, fails on", report["differences"]), ("Not at every run", report["unsteady"])):
        for test in names:
            print(f"{title}: {test}\n    {report['on'].get(test, {}).get('why', 'not run')}")
    others = [t for t in report["on"] if report["on"][t]["outcome"] != report["off"].get(t, {}).get("outcome")]
    for test in sorted(set(others) - {*report["differences"], *report["unsteady"]}):
        print(f"{report['off'].get(test, {}).get('outcome')} off, {report['on'][test]['outcome']} on: {test}")


def record(report: dict) -> dict[str, object]:
    """How each test ended, for benchmarks/results."""
    return {
        "schema": 1,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in ("ultralytics", "torch")},
        **{column: {test: result["outcome"] for test, result in report[column].items()} for column in FAMILY},
        "differences": report["differences"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, help="source archive of the installed Ultralytics; else from the index")
    parser.add_argument("--quick", action="store_true", help="the selection of CI")
    parser.add_argument("-k", help="which tests, as pytest's -k, by names that both columns have")
    parser.add_argument("--limit", type=int, default=300, help="seconds of one test (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, choices=(1, 2), help="columns run at once (%(default)s)")
    parser.add_argument("--out", type=Path, help="a new folder where the logs and results.json stay")
    parser.add_argument("--record", type=Path, help="a file for how each test ended, without why")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    args = parser.parse_args()
    if args.quick:
        args.k = f"({QUICK}) and ({args.k})" if args.k else QUICK
    if args.archive:
        args.archive = args.archive.resolve()
    with tempfile.TemporaryDirectory(prefix="ultralytics-suite-") as temporary:
        folder = args.out.resolve() if args.out else Path(temporary)
        for column in FAMILY:
            (folder / column).mkdir(parents=True)
        report = compare(folder, args)
        (folder / "results.json").write_text(json.dumps(report, indent=1))
        if args.record:
            args.record.write_text(json.dumps(record(report), indent=1) + "\n")
    print(json.dumps(report, indent=1)) if args.json else show(report)
    return bool(report["differences"])


if __name__ == "__main__":
    sys.exit(main())
