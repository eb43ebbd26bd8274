"""Every stock model YAML builds and computes the same with and without the plugin."""

import pickle
import sys

import pytest

COMPUTE = """
import pickle, sys, torch
from ultralytics import RTDETR, YOLO
from ultralytics.nn import tasks
from ultralytics.utils import ROOT

def flat(out):
    if isinstance(out, torch.Tensor):
        return [out] if out.is_floating_point() else []
    values = out.values() if isinstance(out, dict) else out if isinstance(out, (list, tuple)) else ()
    return [t for value in values for t in flat(value)]

torch.set_num_threads(1)
results = {}
for path in sorted((ROOT / "cfg/models").rglob("*.yaml")):
    try:
        torch.manual_seed(0)
        model = (RTDETR if "rtdetr" in path.stem else YOLO)(str(path)).model
        outputs = []
        for training in (False, True) if "yolo12" in path.stem else (False,):
            image = torch.rand(1 + training, 3, 192, 192, generator=torch.Generator().manual_seed(1))
            with torch.no_grad():
                outputs.append(flat(model.train(training)(image)))
        results[path.name] = sum(p.numel() for p in model.parameters()), outputs
    except Exception as e:
        results[path.name] = f"{type(e).__name__}: {e}"
pickle.dump(results, open(sys.argv[1], "wb"))
"""


@pytest.mark.process
def test_every_stock_yaml(fork, tmp_path):
    script = tmp_path / "compute.py"
    script.write_text(COMPUTE)
    fork([sys.executable, script, tmp_path / "on"])
    fork([sys.executable, script, tmp_path / "off"], YOLO12_PLUGIN="off")
    on, off = (pickle.loads((tmp_path / name).read_bytes()) for name in ("on", "off"))
    assert list(on) == list(off) and len(on) > 30
    for name, result in off.items():
        if isinstance(result, str):
            assert on[name] == result and "URLError" in result, f"{name}: {result}"  # a backbone that is downloaded
            continue
        (parameters, outputs), (expected, reference) = on[name], result
        assert parameters == expected, name
        for mode, (ours, theirs) in enumerate(zip(outputs, reference)):
            assert len(ours) == len(theirs) > 0
            for a, b in zip(ours, theirs):
                # In training mode normalised maps reach some 15: fp32 leaves 1e-5 of the largest value.
                scale = max(1.0, b.abs().max().item()) if mode else 1.0
                assert (a - b).abs().max().item() <= 1e-5 * scale, name
