"""One process of one side: runs the capabilities that are named, one after the other, and writes what came out."""

import argparse
import faulthandler
import json
import math
import os
import random
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conformance import capabilities, support


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["stock", "plugin"])
    parser.add_argument("results", type=Path)
    parser.add_argument("names", nargs="+")
    args = parser.parse_args()
    check(args.side)
    home = Path.cwd()
    table = capabilities.load(dict.fromkeys(name.partition(".")[0] for name in args.names))
    with args.results.open("a", buffering=1) as results:
        for name in args.names:
            results.write(json.dumps({"name": name, "started": True}) + "\n")
            folder = home / name
            folder.mkdir(exist_ok=True)
            os.chdir(folder)
            fresh()
            # A capability that hangs ends the process, with the place where it hung, and is charged for it.
            faulthandler.dump_traceback_later(table[name].seconds, exit=True)
            results.write(json.dumps({"name": name} | outcome(table[name])) + "\n")
            faulthandler.cancel_dump_traceback_later()
    # Threads of packages, and destructors of what a failed capability left, are no matter.
    sys.stdout.flush()
    os._exit(0)


def check(side: str) -> None:
    """This process is what it is taken for."""
    plugin = sys.modules.get("yolov12_plugin")
    registered = plugin is not None and "yolov12_plugin.registry" in sys.modules and plugin.is_registered()
    assert registered is (side == "plugin") is not support.STOCK, f"the plugin is registered: {registered}, for {side}"


def fresh() -> None:
    """What a capability may have set, as it is at the start of a process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def outcome(capability: capabilities.Capability) -> dict[str, Any]:
    start = time.process_time()
    try:
        value, detail, ok = digest(capability.run()), "", True
    except BaseException as e:  # SystemExit too: Ultralytics and packages raise it
        if isinstance(e, KeyboardInterrupt):
            raise
        value, detail, ok = None, describe(e), False
    return {"ok": ok, "detail": detail, "value": value, "seconds": round(time.process_time() - start, 2)}


def describe(e: BaseException) -> str:
    """Type and message, or where an assertion without one stands."""
    message = " ".join(str(e).split())[:300]
    if not message:
        frames = [frame for frame in traceback.extract_tb(e.__traceback__) if "conformance" in frame.filename]
        message = (frames[-1].line or "") if frames else ""
    return f"{type(e).__name__}: {message}"


def digest(value: Any, most: int = 64) -> Any:
    """What is compared across the sides: of a tensor its shape, its norm and evenly chosen elements."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().double().flatten().cpu()
        chosen = flat[torch.linspace(0, max(len(flat) - 1, 0), min(most, len(flat))).long()]
        return {
            "shape": list(value.shape),
            "numbers": [flat.norm().item() / math.sqrt(max(len(flat), 1)), *chosen.tolist()],
        }
    if isinstance(value, dict):
        return {str(key): digest(v, most) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [digest(v, most) for v in value]
    if isinstance(value, (np.floating, np.integer)):
        return value.item()
    return value


if __name__ == "__main__":
    main()
