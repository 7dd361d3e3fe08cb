"""Which device to compute on, and in which precision."""

import ctypes
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import torch

from avtool.errors import UsageError

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MAPPED_BLOCKS, TRIM_THRESHOLD = -4, -1
"""Names of two settings in glibc's malloc.h: M_MMAP_MAX and M_TRIM_THRESHOLD."""


def resolve_device(name: str) -> torch.device:
    """``auto`` (the first accelerator, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    UsageError where this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}", hint="use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name} is not there: {torch.cuda.device_count()} CUDA devices are visible",
            hint="avtool doctor lists what there is; --device cpu always works",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device mps is not there", hint="--device cpu always works")
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """One of ``PRECISIONS``, or ``auto``: bf16 where ``device`` multiplies matrices in it, fp16 on other CUDA devices,
    else float32."""
    if name != "auto":
        return PRECISIONS[name]
    if _has_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def precision_name(precision: torch.dtype) -> str:
    """The name of a precision in recipes and logs."""
    return next(name for name, dtype in PRECISIONS.items() if dtype == precision)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
    return False


def check_compiler(device: torch.device) -> None:
    """UsageError where torch.compile has nothing to compile with: a C++ compiler for a CPU, Triton for a GPU."""
    if device.type == "cuda":
        there, needed = importlib.util.find_spec("triton") is not None, "Triton: pip install triton"
    else:
        compilers = [os.environ.get("CXX"), "g++", "clang++"]
        there, needed = any(map(shutil.which, filter(None, compilers))), "a C++ compiler: g++ or clang++"
    if not there:
        raise UsageError(f"torch.compile on {device} needs {needed}", hint="or leave train.compile=false")


def free_memory(device: torch.device) -> int | None:
    """Bytes that ``device`` has left (a CPU: what the system can give without swapping); None where it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    listing = Path("/proc/meminfo")
    found = re.search(r"MemAvailable: *(\d+) kB", listing.read_text("utf-8")) if listing.exists() else None
    return 1024 * int(found[1]) if found else None


def keep_freed_memory(device: torch.device) -> None:
    """Let a training process on a CPU keep the memory that its tensors free, at its peak, instead of handing it back.

    Every large tensor is otherwise new memory, which the system clears page by page: a full-size step in bf16 took 1.4
    times as long. Only glibc (Linux) has the switch; elsewhere nothing changes.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):
        allocator.mallopt(MAPPED_BLOCKS, 0)
        allocator.mallopt(TRIM_THRESHOLD, 2**31 - 1)
