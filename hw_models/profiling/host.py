"""What machine and software a profile was measured on: a second run continues only on an equal one."""

import hashlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path

from hw_models.models.measured import Host


def host(threads: int, runtime: str = "") -> Host:
    """Return this machine: processor, cores, system, the libraries that run the layers, and the hash of all of it.

    `runtime`: that computes whole networks, with its version, as "openvino 2026.4.1".
    """
    facts: dict[str, str | int] = {
        "cpu": processor(),
        "cores": os.cpu_count() or 1,
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": threads,
        "onnxruntime": metadata.version("onnxruntime"),
        "numba": metadata.version("numba"),
    }
    facts |= {"runtime": runtime} if runtime else {}
    digest = hashlib.sha256(json.dumps([facts, flags()], sort_keys=True).encode()).hexdigest()[:16]
    return Host.model_validate({**facts, "fingerprint": digest})


def processor() -> str:
    """Return the processor's name."""
    return _cpuinfo("model name") or platform.processor() or "unknown processor"


def flags() -> list[str]:
    """Return the processor's instruction sets, where the system tells them."""
    return sorted(_cpuinfo("flags").split())


def _cpuinfo(key: str) -> str:
    """Return a field of Linux's /proc/cpuinfo; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
