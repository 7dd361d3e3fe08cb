"""The checks of the GPU proof, but for attention's: see ``proof.py``."""

from __future__ import annotations

import itertools
import math
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as NormalizedOverProcesses

from avtool.bench.measure import peak_bytes
from avtool.config.recipes import load_recipe
from avtool.data.dataset import PreparedDataset
from avtool.devices import PRECISIONS, check_compiler
from avtool.distributed import World, all_gather_with_grad, share_batch_norm
from avtool.engine.loop import FiniteCheck, Meter, train_step
from avtool.engine.run import Run
from avtool.errors import TrainingError, in_bytes
from avtool.model.build import compile_blocks
from avtool.optim import set_learning_rate
from avtool.registry import FUSIONS
from avtool.replicas import autocast, in_parallel
from avtool.speed import count_flops

CPU, FIRST = torch.device("cpu"), next(iter(FUSIONS))
CLIPS, STEPS, RATE = 32, 4, 3e-4
GRADIENT = {"float32": 1e-3, "bf16": 4 * 2.0**-7, "fp16": 4 * 2.0**-10}
"""How far a gradient may be from that of float32 on the CPU, relative to its norm: four times the type's eps, where a
CPU was off by 0.7 at full width. In float32 targets differ more than sums: quiet patches are divided by little."""
LOSS = {"float32": 2e-3, "bf16": 0.02, "fp16": 0.01}
"""How far each loss may be, relatively: AdamW's first steps have one size however small a gradient is."""
SAME = 1e-5
"""How far the same sums may be, relatively: a GPU adds in any order."""
PEAKS = {"A100": 312, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "L4": 121, "RTX 4090": 165}
"""Dense bf16 TFLOP/s by the makers' data sheets; the first that is in the card's name."""
TINY = ("model.image_size=[32,32]", "model.audio_size=[32,64]", "model.dim=64", "model.heads=2",
    "model.depth=1", "model.decoder={dim: 16, depth: 1, heads: 2}")  # fmt: skip


class Size(NamedTuple):
    """What is run: a recipe with ``settings``, with ``fewer`` layers where it is only to be right, ``batch`` clips a
    step; which precisions go through torch.compile, by ``compiler``; which ``batches`` are measured, plain and
    ``compiled``; and the side of the largest matrix product."""

    recipe: str
    settings: tuple[str, ...]
    fewer: tuple[str, ...]
    batch: int
    compiler: str
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    compiled: tuple[int, ...]
    side: int


LAYERS = ("model.depth=2", "model.decoder.depth=2")  # two layers have all shapes of twelve
SIZES = {
    "full": Size("dense", (), LAYERS, 8, "inductor", tuple(PRECISIONS), (64, 128, 256), (128,), side=8192),
    "tiny": Size("tiny", TINY, (), 2, "eager", ("bf16",), (2,), (), side=256),
}


class Found(NamedTuple):
    """What a check found: whether it passed (None: there is nothing to pass), the figure that it stands on in words,
    the values behind it, and which ``part`` of the check it is about."""

    passed: bool | None
    figure: str
    values: Mapping[str, Any] = {}
    part: str = ""


@dataclass(eq=False)
class Lab:
    """What checks run on: a device, a size, and the folder of ``CLIPS`` prepared clips of synth."""

    device: torch.device
    size: Size
    folder: Path

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @cached_property
    def dataset(self) -> PreparedDataset:
        return PreparedDataset(self.folder, "all")

    def run(
        self, kind: str, precision: str, device: torch.device, *settings: str, compiled: bool = False
    ) -> Run:
        """A new pretraining run, with the same random weights on every device."""
        changed = {
            "model.fusion.kind": kind, "init": "{image: none, audio: none}", "data.split": "all", "data.workers": 0,
            "train.batch_size": self.size.batch, "train.accumulate": 1, "train.precision": precision,
        }  # fmt: skip
        given = [*(f"{key}={value}" for key, value in changed.items()), *self.size.settings, *settings]
        recipe = load_recipe(self.size.recipe, given)
        run = Run(recipe, self.dataset, folder=self.folder / "none", device=device)
        set_learning_rate(run.optimizer, RATE)
        if compiled:
            check_compiler(device)
            torch.compiler.reset()
            compile_blocks(run.task.model, backend=self.size.compiler)
        return run

    def steps(self, run: Run, model: nn.Module, batch: dict[str, Tensor], count: int = STEPS) -> list[float]:
        """Train on one batch; the loss of each step. TrainingError where one is not finite."""
        check, meter = FiniteCheck(run), Meter(clips_per_step=self.size.batch)
        batches = itertools.repeat(batch)
        losses = [train_step(run, model, batches, check=check, meter=meter)["loss"] for _ in range(count)]
        check.raise_if_not_finite()
        return [loss.item() for loss in losses]

    @cached_property
    def clips(self) -> dict[str, Tensor]:
        """All clips as one batch, on the CPU."""
        run = self.run(FIRST, "float32", CPU, *self.size.fewer, f"train.batch_size={CLIPS}")
        return next(run.batches())

    @cached_property
    def batch(self) -> dict[str, Tensor]:
        """As many of them as a step takes."""
        return {name: value[: self.size.batch] for name, value in self.clips.items()}


Check = Callable[[Lab], Iterator[Found]]


def moved(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def distance(found: Tensor, wanted: Tensor) -> float:
    """The norm of the difference over the norm of ``wanted``."""
    return ((found - wanted).norm() / wanted.norm()).item()


def by_turns(lab: Lab, *works: Callable[[], object]) -> list[float]:
    """Median seconds of each of ``works``, which take turns; the first turn warms up."""
    rounds: list[list[float]] = []
    for _ in range(4):
        rounds.append([])
        for work in works:
            began = time.perf_counter()
            work()
            if lab.cuda:
                torch.cuda.synchronize()
            rounds[-1].append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in zip(*rounds[1:], strict=True)]


def describe_machine(lab: Lab) -> Iterator[Found]:
    """GPU, torch, CUDA, cuDNN and, where nvidia-smi is there, the driver."""
    facts = {
        "device": torch.cuda.get_device_name(lab.device) if lab.cuda else "CPU",
        "torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        "float32 products": torch.get_float32_matmul_precision(),
    }  # fmt: skip
    if lab.cuda and shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        facts["driver"] = said.partition("\n")[0]
    yield Found(None, ", ".join(f"{name} {value}" for name, value in facts.items()), facts)


def measure_product(lab: Lab) -> Iterator[Found]:
    """What the card does of its peak where there is nothing but a matrix product."""
    (seconds,), peak = by_turns(lab, matrix_product(lab)), peak_of(lab)
    rate = 2 * lab.size.side**3 / seconds
    of_peak = (
        f", {rate / peak:.1%} of the card's peak"
        if peak
        else "; the card's peak is not known: it stands for it"
    )
    yield Found(None, f"bf16, {rate / 1e12:.3g} TFLOP/s{of_peak}", {"flop_per_second": rate, "peak": peak})


def matrix_product(lab: Lab) -> Callable[[], Tensor]:
    """A large bf16 product."""
    matrix = torch.randn(lab.size.side, lab.size.side, device=lab.device, dtype=torch.bfloat16)
    return lambda: matrix @ matrix


def peak_of(lab: Lab) -> float | None:
    """The card's dense bf16 operations a second, where it is a known one."""
    card = torch.cuda.get_device_name(lab.device) if lab.cuda else ""
    return next((1e12 * rate for name, rate in PEAKS.items() if re.search(rf"\b{name}\b", card)), None)


def check_handover(lab: Lab) -> Iterator[Found]:
    """The device is kept busy: each copy waits in its queue, while the memory that it will read is let go and the
    loader goes on."""
    half = (*lab.size.fewer, f"train.batch_size={CLIPS // 2}")
    sent, made = (
        lab.run(FIRST, "float32", lab.device, *half, f"data.workers={count}").batches() for count in (2, 0)
    )
    keep_busy, held, unpinned = matrix_product(lab), [], 0
    places: set[int] = set()
    for batch in itertools.islice(sent, 24):
        keep_busy()
        unpinned += sum(lab.cuda and not value.is_pinned() for value in batch.values())
        places.add(batch["image"].data_ptr())
        held.append(moved(batch, lab.device))
    same = [torch.equal(found[name].cpu(), value) for found in held for name, value in next(made).items()]
    figure = f"{same.count(False)} of {len(same)} tensors wrong, {unpinned} not pinned, {len(held)} batches through "
    yield Found(all(same) and not unpinned, f"{figure}{len(places)} places in memory")


@contextmanager
def group_of_one(lab: Lab) -> Iterator[World]:
    """A process group of this process. The world says two, so that avtool takes the ways that it has for several."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # at any free port
    dist.init_process_group("nccl" if lab.cuda else "gloo", store=store, rank=0, world_size=1)
    try:
        yield World(rank=0, size=2)
    finally:
        dist.destroy_process_group()


def check_ddp(lab: Lab) -> Iterator[Found]:
    """Steps through DistributedDataParallel are those without it."""
    alone = learn(lab, FIRST, "float32", lab.device)
    with group_of_one(lab) as world:
        shared = learn(lab, FIRST, "float32", lab.device, world=world)
    error, apart = distance(shared.gradient, alone.gradient), shared.apart(alone)
    figure = f"gradient off by {error:.1e} (at most {SAME:.0e}), losses by {apart:.1e} (at most {LOSS['float32']:.0e})"
    yield Found(error <= SAME and apart <= LOSS["float32"], figure, {"gradient": error, "losses": apart})


def check_batch_norm(lab: Lab) -> Iterator[Found]:
    """Output, gradients and running variance of what ``share_batch_norm`` makes, a BatchNorm still on a CPU, are
    BatchNorm's."""
    results = []
    for shared in (False, True):
        torch.manual_seed(0)
        (norm,) = parts = nn.Sequential(nn.BatchNorm2d(8)).to(lab.device)
        x = torch.randn(16, 8, 12, 12, device=lab.device).mul(3).add(1).requires_grad_()
        back = torch.randn_like(x)
        with group_of_one(lab) as world:
            if shared:
                share_batch_norm(parts, world, lab.device)
                (norm,) = parts
            out = normalized(norm, x)
            out.backward(back)
        results.append([out, x.grad, norm.weight.grad, norm.bias.grad, norm.running_var])
    error = max(distance(found, wanted) for wanted, found in zip(*results, strict=True))
    figure = f"{type(norm).__name__} off by {error:.1e} (at most {SAME:.0e})"
    yield Found(error <= SAME and isinstance(norm, nn.SyncBatchNorm) == lab.cuda, figure, {"error": error})


def normalized(norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(x)``; SyncBatchNorm, which would normalize plainly in a group of one, in its own way."""
    if not isinstance(norm, nn.SyncBatchNorm):
        return norm(x)
    kept = (norm.running_mean, norm.running_var, norm.eps, norm.momentum)
    return NormalizedOverProcesses.apply(x, norm.weight, norm.bias, *kept, dist.group.WORLD, 1)


def check_gathered(lab: Lab) -> Iterator[Found]:
    """What a contrastive loss asks of the other processes, with its gradient."""
    rows, weights = (torch.randn(6, 4, device=lab.device, requires_grad=True) for _ in range(2))
    with group_of_one(lab):
        gathered, first = all_gather_with_grad(rows)
        (gradient,) = torch.autograd.grad((gathered * weights).sum(), rows)
    same = gathered is not rows and torch.equal(gathered, rows) and torch.equal(gradient, weights)
    yield Found(same and first == 0, f"rows and gradient are {'' if same else 'not '}as they were")


class Learned(NamedTuple):
    """The gradient of a first batch, flat (P,) on the CPU, and the losses of the steps after it."""

    gradient: Tensor
    losses: list[float]

    def apart(self, other: Learned) -> float:
        """The largest relative difference between the losses of both."""
        return max(abs(one / two - 1) for one, two in zip(self.losses, other.losses, strict=True))


def learn(
    lab: Lab, kind: str, precision: str, device: torch.device, *, compiled: bool = False, world: World | None = None
) -> Learned:  # fmt: skip
    """A few steps of training on one batch."""
    run = lab.run(kind, precision, device, *lab.size.fewer, compiled=compiled)
    model = in_parallel(run.task, world or World(), device, replicas=1)
    with autocast(device, run.precision):
        loss = model(moved(lab.batch, device))["loss"]
    run.scaler.scale(loss).backward()
    gradient = torch.cat([weight.grad.flatten().cpu() for weight in run.parameters])
    run.optimizer.zero_grad()
    return Learned(gradient / run.scaler.get_scale(), lab.steps(run, model, lab.batch))


@lru_cache(maxsize=1)
def plain(lab: Lab, kind: str) -> Learned:
    """What the others are held to: float32 on the CPU, where attention is a chain of plain products."""
    return learn(lab, kind, "float32", CPU)


def check_steps(kind: str, precision: str, lab: Lab, *, compiled: bool = False) -> Iterator[Found]:
    """Gradient and losses are near those of ``plain``, and the loss falls."""
    wanted = plain(lab, kind)
    torch._dynamo.utils.counters.clear()
    found = learn(lab, kind, precision, lab.device, compiled=compiled)
    error, apart = distance(found.gradient, wanted.gradient), found.apart(wanted)
    cosine = F.cosine_similarity(found.gradient.double(), wanted.gradient.double(), dim=0).item()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    falls = found.losses[-1] < found.losses[0]
    figure = (
        f"gradient off by {error:.1e} (at most {GRADIENT[precision]:.1e}), cosine {cosine:.6f}; loss "
        f"{found.losses[0]:.3f} to {found.losses[-1]:.3f}, off by {apart:.1e} (at most {LOSS[precision]:.0e})"
        + (f"; {graphs} graphs" if compiled else "")
    )
    near = error <= GRADIENT[precision] and apart <= LOSS[precision]  # no NaN is
    values = {"gradient": error, "cosine": cosine, "losses": found.losses, "graphs": graphs}
    yield Found(near and falls and bool(graphs) == compiled, figure, values)


def check_not_finite(precision: str, lab: Lab) -> Iterator[Found]:
    """A step that is not finite moves no weight and is told of. On a GPU the optimizer itself passes over it."""
    run = lab.run(FIRST, precision, lab.device, *lab.size.fewer)
    before = [weight.clone() for weight in run.parameters]
    loud = torch.full_like(lab.batch["gain_db"], torch.inf)
    said = "nothing was said"
    try:
        lab.steps(run, run.task, {**lab.batch, "gain_db": loud}, count=1)
    except TrainingError as error:
        said = error.message.partition(";")[0]
    changed = sum(not torch.equal(old, new) for old, new in zip(before, run.parameters, strict=True))
    yield Found(not changed and "not finite" in said, f"{changed} of {len(before)} weights moved; {said}")


def measure_step(kind: str, batch: int, lab: Lab, *, compiled: bool = False) -> Iterator[Found]:
    """A whole step of training at full size, from pinned memory on. On a GPU a share above 1 is no speed: the
    clock or the arithmetic is wrong."""
    several, known = 4, peak_of(lab)
    try:
        run = lab.run(kind, "bf16", lab.device, compiled=compiled)
        clips = {name: torch.cat([value] * -(-batch // CLIPS))[:batch] for name, value in lab.clips.items()}
        clips = {name: value.pin_memory() if lab.cuda else value for name, value in clips.items()}
        steps, one = (partial(lab.steps, run, run.task, clips, count=count) for count in (several, 1))
        seconds, of_product = by_turns(lab, steps, matrix_product(lab))
        flop, memory = count_flops(one), peak_bytes(one, lab.device)
    except torch.OutOfMemoryError:
        yield Found(None, "out of memory")
        return
    if lab.cuda:
        memory = torch.cuda.max_memory_allocated(lab.device)  # weights and moments as well
    rate = several * batch / seconds
    share = flop / batch * rate / (known or 2 * lab.size.side**3 / of_product)
    figure = (
        f"{rate:,.1f} samples/s, {in_bytes(memory)}, {flop / batch / 1e9:,.2f} GFLOP a sample, {share:.1%} of "
        f"{'the peak' if known else 'a product'}"
    )
    values = {"samples_per_second": rate, "bytes": memory, "flop_per_sample": flop / batch, "share": share}
    yield Found(0 < share <= (1 if lab.cuda else math.inf), figure, values)
