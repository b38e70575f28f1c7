"""
A compact checkpoint -> the full-size network, as model files.  Its answers are the same.

What a network costs depends on its shapes, not on its weights' values.  The factored layers
`classifier.N.u` and `.v` of a compact checkpoint multiply out to `classifier.N.weight`, which gives
the 61.1 million parameters of `owt` where the published weights cannot be had.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

from .processes import ROOT

BUNDLED = ROOT / "service" / "bundled" / "alexnet.onnx"


def default(weights: Path, device: str, work: Path) -> dict[str, Path]:
    """The models measured by default: the full-size network in two precisions, the bundled one."""
    quick = "fp16" if device == "cuda" else "int8"
    return {
        **{f"owt {p}": exported(weights, p, work) for p in ("fp32", quick)},
        "bundled": BUNDLED,
    }


def exported(weights: Path, precision: str, work: Path) -> Path:
    """The full-size network of a checkpoint in one precision; kept in `work` for the next run."""
    if importlib.util.find_spec("torch") is None:
        raise SystemExit(
            "making the full-size models needs torch, which this environment lacks; use "
            "scripts/bench, which installs it into .venv-test, or measure files of your own "
            "with --model FILE"
        )
    # Other weights or another exporter are another file.
    exporter = sorted((ROOT / "model_export").glob("*.py"))
    sha256 = hashlib.sha256(b"".join(file.read_bytes() for file in [weights, *exporter]))
    stem = work / f"owt-{sha256.hexdigest()[:12]}"
    output = stem.with_name(f"{stem.name}-{precision}.onnx")
    if not output.exists():
        full = stem.with_suffix(".safetensors")
        if not full.exists():
            expand(weights, full)
        command = [
            *(sys.executable, "-m", "model_export", "--variant", "owt", "--weights", str(full)),
            *("--precision", precision, "--output", str(output)),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise SystemExit(f"the export failed: {done.stderr.strip()[-1000:]}")
    return output


def expand(compact: Path, to: Path) -> None:
    """Multiply the factored layers of a checkpoint out, into a `.safetensors`."""
    from safetensors.torch import save_file

    from model_export import checkpoints

    state = {name: tensor.float() for name, tensor in checkpoints.read(compact).items()}
    for name in [name for name in state if name.endswith(".u")]:
        layer = name.removesuffix(".u")
        # u is (out, rank), v is (rank, in)
        state[f"{layer}.weight"] = state.pop(f"{layer}.u") @ state.pop(f"{layer}.v")
    to.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, to)
