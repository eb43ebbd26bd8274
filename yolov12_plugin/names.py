"""Where the plugin's YAML files are, and how they are found by name."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# Inside the package in a wheel, beside it in a checkout.
CFG = next((p for p in (PACKAGE / "cfg", PACKAGE.parent / "cfg") if p.is_dir()), PACKAGE / "cfg")


def find(file: str | os.PathLike[str]) -> Path | None:
    """Path of the plugin's YAML file of this name or trailing path, None if there is none.

    A file that exists where the user is, of whatever name, is the user's: it is never replaced.
    """
    name = os.fspath(file).strip()
    if not name.endswith((".yaml", ".yml")) or os.path.isfile(name):
        return None
    tail = "/" + Path(name).as_posix()
    return next((p for p in sorted(CFG.rglob("*.yaml")) if p.as_posix().endswith(tail)), None)
