"""What the plugin adds to `python -c pass`, interleaved with a bare environment."""

import argparse
import compileall
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(folder: Path, plugin: bool) -> Path:
    """A bare virtual environment's Python, with the plugin's files as a wheel lays them out."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    if plugin:
        packages = next((folder / "lib").glob("python*/site-packages"))
        shutil.copytree(ROOT / "yolov12_plugin", packages / "yolov12_plugin")
        shutil.copy(ROOT / "yolov12_plugin/yolov12_plugin.pth", packages)
        compileall.compile_dir(packages, quiet=1)  # as pip does
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/startup.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pythons = {name: environment(Path(folder) / name, name == "with") for name in ("without", "with")}
        seconds: dict[str, list[float]] = {name: [] for name in pythons}
        for i in range(args.runs + 5):
            for name, python in pythons.items():
                start = time.perf_counter()
                subprocess.run([python, "-c", "pass"], check=True)
                if i >= 5:
                    seconds[name].append(time.perf_counter() - start)
    median = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    pairs = [1000 * (b - a) for a, b in zip(seconds["without"], seconds["with"])]
    result = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "runs": args.runs,
        "median_ms": {name: round(value, 2) for name, value in median.items()},
        "median_added_ms": round(statistics.median(pairs), 2),
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
