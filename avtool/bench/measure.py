"""How a benchmark measures: by turns, with the spread; and what memory a pass takes."""

import os
import platform
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from avtool import __version__
from avtool.progress import say
from avtool.speed import Pass, synchronize


def interleave(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each measure gives in each round. They take turns, A B C A B C ..., so that whatever slows the machine down
    for a while slows all of them. A round before the first warms up and is not counted."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        say(f"round {number} of {rounds}" if number else "warm-up")
        for name, measure in measures.items():
            value = measure()
            if number:
                found[name].append(value)
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """``median`` and quartiles ``q1`` and ``q3`` of one value or more."""
    q1, median, q3 = np.percentile(values, (25, 50, 75)).tolist()
    return {"median": median, "q1": q1, "q3": q3}


def compare(over: Mapping[str, Any], under: Mapping[str, Any], measured: str) -> dict[str, Any]:
    """What was ``measured`` of result ``over`` as a multiple of ``under``'s, round by round, so that its quartiles are
    those of the ratio."""
    ratios = [a / b for a, b in zip(over["rounds"], under["rounds"], strict=True)]
    return {"over": over["name"], "under": under["name"], measured: spread(ratios)}


def peak_bytes(run: Pass, device: torch.device) -> int | None:
    """Most bytes of tensors alive at once during ``run``, above what was alive before it: activations and gradients,
    but not weights, inputs and the optimizer's moments. None on a device that does not tell (mps).

    On a CPU the running sum of every allocation and release that PyTorch's profiler records, on CUDA what the caching
    allocator counts. Both count all that goes through PyTorch's allocators, the temporaries inside an operation as
    well; neither sees the scratch memory of vendors' libraries.
    """
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own talk on stderr
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Profiler clears events")  # there is one cycle only
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            run()
    assert recorded.profiler is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum([0, *changes]).max())


def measured_on(device: torch.device, settings: Mapping[str, Any]) -> dict[str, Any]:
    """How every benchmark's result begins: ``avtool`` (its version), ``date``, ``machine`` and the ``settings``.

    ``load`` is how busy the machine was before, in processes (None: not known).
    """
    listing = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: *(.+)", listing.read_text("utf-8")) if listing.exists() else None
    machine = {
        "cpu": named[1].strip() if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"avtool": __version__, "date": date, "machine": machine, "settings": dict(settings)}
