"""Proof that avtool is right and fast on this GPU: ``python -m tests.gpu.proof --out DIR``, under ten minutes on one.

It runs what training runs (``engine.run.Run`` and its batches, ``train_step``, DistributedDataParallel) and prints a
line a check, with the figure that it stood on; DIR gets them as proof.txt and proof.json.

- hand-over: batches through shared and pinned memory arrive as they were made, their memory used again at once.
- processes: over NCCL with one rank, a step, BatchNorm and gathered rows are those without it.
- steps: every kind of fusion, in float32, bf16 and fp16, has the gradient and the losses of plain float32 on the CPU,
  and a step that is not finite moves no weight; ``compiled steps``: the same through torch.compile.
- attention: which kernel torch runs for each attention of the model, and each kernel beside plain math in float64,
  forward and backward, on new, trained and scaled-up weights and where all logits are very low.
- throughput: samples a second, memory and share of the card's peak of a full-size masked step in bf16.

Exit codes: 0 every check passed, 1 one failed, 2 wrong usage or no such device, 3 none failed but time ran out.
``--device cpu --size tiny`` runs the same code on a CPU; ``test_gpu.py`` does.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from avtool.data.prepare import prepare
from avtool.devices import PRECISIONS, resolve_device
from avtool.errors import UsageError
from avtool.files import json_text
from avtool.registry import FUSIONS
from tests.gpu import checks
from tests.gpu.attention import check_attention
from tests.gpu.checks import CLIPS, SIZES, Check, Found, Lab, Size

STATUS = {True: "pass", False: "FAIL", None: "note"}


def every_check(size: Size) -> Iterator[tuple[str, str, Check]]:
    """Section, name and check. Compiling takes most of the time: it comes last."""
    yield "machine", "versions", checks.describe_machine
    yield "machine", "matrix product", checks.measure_product
    yield "hand-over", "two workers", checks.check_handover
    yield "processes", "DistributedDataParallel", checks.check_ddp
    yield "processes", "SyncBatchNorm", checks.check_batch_norm
    yield "processes", "gathered rows", checks.check_gathered
    for kind, precision in product(FUSIONS, PRECISIONS):
        yield "steps", f"{kind}, {precision}", partial(checks.check_steps, kind, precision)
    for precision in PRECISIONS:
        yield "steps", f"not finite, {precision}", partial(checks.check_not_finite, precision)
    for kind, precision in product(FUSIONS, PRECISIONS):
        yield "attention", f"{kind}, {precision}", partial(check_attention, kind, precision)
    for batch, kind in product(size.batches, FUSIONS):
        yield "throughput", f"{kind}, batch {batch}", partial(checks.measure_step, kind, batch)
    for kind, precision in product(FUSIONS, size.precisions):
        check = partial(checks.check_steps, kind, precision, compiled=True)
        yield "compiled steps", f"{kind}, {precision}", check
    for batch, kind in product(size.compiled, FUSIONS):
        check = partial(checks.measure_step, kind, batch, compiled=True)
        yield "compiled throughput", f"{kind}, batch {batch}", check


def prove(lab: Lab, *, minutes: float = 9, only: str = "", out: Path | None = None) -> list[dict[str, Any]]:
    """Run the checks, or those of one section, until the time is up. Rows are printed, and written to ``out``, as they
    come; each has section, check, status (pass, FAIL, note or unrun), figure and the values behind it."""
    until = time.monotonic() + 60 * minutes
    rows: list[dict[str, Any]] = []
    for section, name, check in every_check(lab.size):
        if only not in ("", section):
            continue
        for found in caught(check, lab) if time.monotonic() < until else [None]:
            status = STATUS[found.passed] if found else "unrun"
            figure, values = (found.figure, found.values) if found else ("no time left", {})
            full = name + (f", {found.part}" if found and found.part else "")
            rows.append({"section": section, "check": full, "status": status, "figure": figure, **values})
            print(in_line(rows[-1]), flush=True)
        if out:
            (out / "proof.txt").write_text("".join(in_line(row) + "\n" for row in rows), encoding="utf-8")
            (out / "proof.json").write_text(json_text(rows, indent=1), encoding="utf-8")
        if lab.cuda:
            gc.collect()
            torch.cuda.empty_cache()
    return rows


def caught(check: Check, lab: Lab) -> Iterator[Found]:
    """What a check finds; an error that ends it early is found as well."""
    try:
        with torch._dynamo.config.patch(
            fail_on_recompile_limit_hit=True
        ):  # else it goes on without compiling
            yield from check(lab)
    except Exception as error:  # noqa: BLE001 - the other checks are to run, whatever it is
        traceback.print_exc()
        yield Found(False, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


def in_line(row: dict[str, Any]) -> str:
    return f"{row['status']:<6}{row['section'] + ': ' + row['check']:<68} {row['figure']}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.proof", description=__doc__.partition(":")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--minutes", type=float, default=9, help="no check begins after so many")
    parser.add_argument("--out", type=Path, help="folder for proof.txt and proof.json")
    options = parser.parse_args(arguments)
    try:
        device = resolve_device(options.device)
    except UsageError as error:
        parser.error(f"{error.message}; {error.hint}")
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="avtool-gpu-") as folder:
        data = Path(folder) / "data"
        prepare("synth", out=data, clips=CLIPS, seed=0)
        rows = prove(Lab(device, SIZES[options.size], data), minutes=options.minutes, out=options.out)
    count = [row["status"] for row in rows].count
    print(f"{count('pass')} passed, {count('FAIL')} failed, {count('unrun')} unrun")
    return 1 if count("FAIL") else 3 if count("unrun") else 0


if __name__ == "__main__":
    sys.exit(main())
