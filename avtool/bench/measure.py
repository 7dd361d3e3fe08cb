"""Time, memory and arithmetic of a pass: a function without arguments that frees what it made before it returns."""

import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

Pass = Callable[[], object]
MIN_SECONDS = 0.1
"""A pass shorter than this is repeated within its turn until the turn takes so long."""


def interleave(
    passes: Mapping[str, Pass],
    *,
    rounds: int,
    device: torch.device,
    on_round: Callable[[int], None] = lambda number: None,
) -> dict[str, list[float]]:
    """Seconds of each pass in each round. The passes take turns, A B C A B C ..., so that whatever slows the machine
    down for a while slows all of them; ``on_round`` is told the number of the round that begins, 0 for the warm-up.

    In the warm-up each pass runs twice: once for what is made or compiled at first use, once to see how often it has to
    run in a turn.
    """
    on_round(0)
    repeats = {}
    for name, run in passes.items():
        run()
        repeats[name] = max(1, math.ceil(MIN_SECONDS / _seconds(run, 1, device)))
    times: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(1, rounds + 1):
        on_round(number)
        for name, run in passes.items():
            times[name].append(_seconds(run, repeats[name], device))
    return times


def _seconds(run: Pass, repeats: int, device: torch.device) -> float:
    _synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    _synchronize(device)
    return (time.perf_counter() - began) / repeats


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def spread(values: Sequence[float]) -> dict[str, float]:
    """``median`` and quartiles ``q1`` and ``q3`` of one value or more."""
    if len(values) == 1:
        return dict.fromkeys(("median", "q1", "q3"), values[0])
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def peak_bytes(run: Pass, device: torch.device) -> int | None:
    """Most bytes of tensors alive at once during ``run``, above what was alive before it: activations and gradients,
    but not weights, inputs and the optimizer's moments. None on a device that does not tell (mps).

    On a CPU the running sum of every allocation and release that PyTorch's profiler records, on CUDA what the caching
    allocator counts. Both count all that goes through PyTorch's allocators, the temporaries inside an operation as
    well; neither sees the scratch memory of vendors' libraries.
    """
    if device.type == "cuda":
        _synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        _synchronize(device)
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
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def count_flops(run: Pass) -> int:
    """Floating-point operations of the matrix products, convolutions and fused attention in ``run``, compiled or not
    (a multiplication and an addition are two)."""
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
