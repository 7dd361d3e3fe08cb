"""``avtool bench``: measure a suite of passes and say what each costs, and how they compare."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from avtool import __version__
from avtool.bench.measure import count_flops, interleave, peak_bytes, spread
from avtool.bench.passes import ATTENTION, BUILT, Setup, Suite, fusion_suite, matrix_product, step_suite
from avtool.config.recipes import load_recipe
from avtool.devices import PRECISIONS, check_compiler, resolve_device
from avtool.errors import AvtoolError, check_choice
from avtool.progress import say
from avtool.registry import FUSIONS

SUITES = {"fusion": fusion_suite, "step": step_suite}
SIZES = {"full": "dense", "tiny": "tiny"}
"""Size: the recipe that has it."""
PRODUCT_SIDE = 4096
"""GFLOP-equivalents are seconds times the rate of a product of two square matrices of this side."""
PRODUCT = "matrix product"

PUBLISHED_GFLOP_EQUIVALENTS = 560.0
"""Dense attention of the published implementation, which builds the pairs, forward and backward: full size, batch 4,
attn_ratio 0.25, float32 on a CPU (3.08 s beside a product of 183 GFLOP/s)."""
PUBLISHED_AT = {
    "benchmark": "fusion",
    "size": "full",
    "batch": 4,
    "attn_ratio": 0.25,
    "precision": "float32",
    "compile": False,
}
TOLERANCE = 0.3


def benchmark(
    what: str,
    *,
    size: str = "full",
    fusions: Sequence[str] = tuple(FUSIONS),
    batch: int = 4,
    precision: str = "float32",
    rounds: int = 5,
    attn_ratio: float | None = None,
    compile: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Measure ``what`` (``fusion`` or ``step``) and return plain values: ``machine``, ``settings``, ``product`` (the
    matrix product that GFLOP-equivalents are expressed in), ``results`` (one for each pass), ``ratios``, and
    ``built_pairs`` (a sentence on the side that builds pairs beside the published one; None where not measured).

    ``size`` is that of the recipe in ``SIZES``; ``attn_ratio`` None is the recipe's. Times are seconds; bytes are peaks
    above weights, inputs and the optimizer's moments. AvtoolError where the device is not there or its memory is too
    small, RecipeError where ``attn_ratio`` does not fit the size.
    """
    for option, value, table in (("--size", size, SIZES), ("--precision", precision, PRECISIONS)):
        check_choice(option, value, table)
    for fusion in fusions:
        check_choice("--fusion", fusion, FUSIONS)
    target = resolve_device(device)
    if compile:
        check_compiler(target)
    ratio = () if attn_ratio is None else (f"model.fusion.attn_ratio={attn_ratio}",)
    recipes = {
        kind: load_recipe(SIZES[size], [f"model.fusion.kind={kind}", *ratio])
        for kind in dict.fromkeys(fusions)
    }
    settings = {
        "benchmark": what,
        "size": size,
        "fusions": list(recipes),
        "batch": batch,
        "precision": precision,
        "attn_ratio": next(iter(recipes.values())).model.fusion.attn_ratio,
        "compile": compile,
        "rounds": rounds,
        "product_side": PRODUCT_SIDE,
    }
    setup = Setup(batch=batch, device=target, precision=PRECISIONS[precision], compile=compile)
    about = {"avtool": __version__, "date": _now(), "machine": machine(target), "settings": settings}
    try:
        return {**about, **_measure(SUITES[what](recipes, setup), setup, settings)}
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        smaller = f"--batch {batch // 2}" if batch > 1 else "--size tiny"
        raise AvtoolError(f"{target} has too little memory for a batch of {batch}", hint=smaller) from error


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were taken on; ``load`` is how busy the machine was before, in processes (None: not known)."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _cpu_name() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _measure(suite: Suite, setup: Setup, settings: Mapping[str, Any]) -> dict[str, Any]:
    rounds = settings["rounds"]
    passes = {PRODUCT: matrix_product(PRODUCT_SIDE, setup), **suite.passes}
    times = interleave(
        passes,
        rounds=rounds,
        device=setup.device,
        on_round=lambda number: say(f"round {number} of {rounds}" if number else "warm-up"),
    )
    seconds = spread(times.pop(PRODUCT))
    rate = 2 * PRODUCT_SIDE**3 / seconds["median"] / 1e9
    say("memory and arithmetic")
    results = [
        {
            "name": name,
            "seconds": (taken := spread(times[name])),
            "rounds": times[name],
            "gflop_equivalents": taken["median"] * rate,
            "gflop": (gflop := count_flops(run) / 1e9),
            "share_of_product_rate": gflop / (taken["median"] * rate),
            "samples_per_second": setup.batch / taken["median"],
            "peak_bytes": peak_bytes(run, setup.device),
        }
        for name, run in suite.passes.items()
    ]
    by_name = {result["name"]: result for result in results}
    built = by_name.get(ATTENTION + BUILT)
    return {
        "product": {"seconds": seconds, "gflop_per_second": rate},
        "results": results,
        "ratios": [compare(by_name[over], by_name[under]) for over, under in suite.comparisons],
        "built_pairs": None if built is None else built_pairs_in_words(built, settings, setup.device),
    }


def compare(over: Mapping[str, Any], under: Mapping[str, Any]) -> dict[str, Any]:
    """Time and peak bytes of ``over`` as multiples of ``under``'s: time round by round, so that its quartiles are those
    of the ratio."""
    ratios = [a / b for a, b in zip(over["rounds"], under["rounds"], strict=True)]
    return {
        "over": over["name"],
        "under": under["name"],
        "seconds": spread(ratios),
        "peak_bytes": over["peak_bytes"] / under["peak_bytes"] if under["peak_bytes"] else None,
    }


def built_pairs_in_words(result: Mapping[str, Any], settings: Mapping[str, Any], device: torch.device) -> str:
    """What attention that builds the pairs takes beside the published one, and, at the settings that one was measured
    at, whether the two are too far apart for a fair reference."""
    taken = result["gflop_equivalents"]
    comparable = device.type == "cpu" and all(settings[key] == value for key, value in PUBLISHED_AT.items())
    unfair = comparable and abs(taken / PUBLISHED_GFLOP_EQUIVALENTS - 1) > TOLERANCE
    return (
        f"dense attention with built pairs: {taken:,.0f} GFLOP-equivalents, published "
        f"{PUBLISHED_GFLOP_EQUIVALENTS:,.0f} at full size, batch 4, attn_ratio 0.25, float32, on a CPU"
        + (f": more than {TOLERANCE:.0%} apart, so ratios to built pairs do not count" if unfair else "")
    )
