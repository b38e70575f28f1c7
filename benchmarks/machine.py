"""What the figures were measured on."""

from __future__ import annotations

import platform
import re
from datetime import date
from importlib.metadata import version
from pathlib import Path

import onnxruntime

from service.cgroups import cpu_quota

# The extensions of x86 and Arm that decide how quick the kernels of each precision are.
TELLING = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
)


def describe(provider: str) -> dict[str, object]:
    """Processor, cores, versions, date."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    name = re.search(r"model name\s*: (.+)", text)
    flags = re.search(r"(?:flags|Features)\s*: (.+)", text)
    return {
        "cpu": name[1] if name else platform.processor() or platform.machine(),
        "cores": cpu_quota(),
        "flags": [flag for flag in TELLING if flags and flag in flags[1].split()],
        "onnxruntime": onnxruntime.__version__,
        "provider": provider,
        "python": platform.python_version(),
        "alexnet-service": version("alexnet-service"),
        "date": date.today().isoformat(),
    }


def sentence(machine: dict[str, object]) -> str:
    """The same in a line."""
    flags = machine["flags"]
    assert isinstance(flags, list)
    return (
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores ({', '.join(flags)}), "
        f"ONNX Runtime {machine['onnxruntime']} on {machine['provider']}, "
        f"Python {machine['python']}"
    )
