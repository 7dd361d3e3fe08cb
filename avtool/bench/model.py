"""``avtool bench fusion`` and ``avtool bench step``: what fusion costs with and without built pairs, and what whole
training steps cost."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from avtool.bench import measure
from avtool.bench.pairs import BuiltPairs, with_built_pairs
from avtool.config.recipes import load_recipe
from avtool.config.schema import Recipe
from avtool.config.types import flat
from avtool.devices import PRECISIONS, check_compiler, keep_freed_memory
from avtool.errors import AvtoolError, check_choice
from avtool.losses import masked_autoencoding_loss, reconstruction_loss
from avtool.model.build import AUTOENCODER, build_empty_model, compile_blocks
from avtool.model.encoder import AudioVisualEncoder
from avtool.model.mae import MaskedAutoencoder
from avtool.optim import adamw, parameter_groups, set_learning_rate
from avtool.progress import say
from avtool.registry import FUSIONS
from avtool.replicas import autocast
from avtool.speed import PRODUCT_SIDE, Pass, count_flops, matrix_product, seconds_of

CPU = torch.device("cpu")
SIZES = {"full": "dense", "tiny": "tiny"}
"""Size: the recipe that has it."""
PRODUCT, BUILT, ATTENTION = "matrix product", ", pairs built", "dense attention alone"

PUBLISHED_GFLOP_EQUIVALENTS = 560.0
"""Dense attention of the published implementation, which builds the pairs, forward and backward: full size, batch 4,
attn_ratio 0.25, float32 on a CPU (3.08 s beside a product of 183 GFLOP/s)."""
TOLERANCE = 0.3

Suite = tuple[dict[str, Pass], list[tuple[str, str]]]
"""Passes by name, and pairs of names whose times and bytes are compared, the first over the second."""


@dataclass(frozen=True)
class Setup:
    """What is measured (``fusion`` or ``step``) and how; unless told otherwise, as the published one was.

    ``size`` is that of the recipe in ``SIZES``, ``batch`` in clips; ``attn_ratio`` is the width of fusion's queries and
    keys over the model's.
    """

    benchmark: str
    size: str = "full"
    fusions: Sequence[str] = tuple(FUSIONS)
    batch: int = 4
    precision: str = "float32"
    attn_ratio: float = 0.25
    compile: bool = False
    rounds: int = 5
    device: torch.device = CPU

    def autocast(self) -> torch.autocast:
        """The precision of a forward pass, as in training."""
        return autocast(self.device, PRECISIONS[self.precision])

    def compiled(self, module: nn.Module) -> Callable[..., Any]:
        """``module`` through torch.compile where that was asked for: a model block by block, as in training."""
        if self.compile and isinstance(module, MaskedAutoencoder | AudioVisualEncoder):
            compile_blocks(module)
            return module
        return torch.compile(module.forward) if self.compile else module

    def random(self, *shape: int) -> Tensor:
        """Standard normal values (batch, *shape)."""
        return torch.randn(self.batch, *shape, device=self.device)


def benchmark(setup: Setup) -> dict[str, Any]:
    """Measure and return plain values: ``machine``, ``settings``, ``product`` (the matrix product that
    GFLOP-equivalents are expressed in), ``results`` (one for each pass), ``ratios``, and ``reference`` (a sentence on
    the side that builds pairs beside the published one, which says so where ratios to it do not count; None where not
    measured).

    Times are seconds; bytes are peaks above weights, inputs and the optimizer's moments. AvtoolError where the device
    has too little memory, RecipeError where ``attn_ratio`` does not fit the size.
    """
    check_choice("--size", setup.size, SIZES)
    check_choice("--precision", setup.precision, PRECISIONS)
    for fusion in setup.fusions:
        check_choice("--fusion", fusion, FUSIONS)
    if setup.compile:
        check_compiler(setup.device)
    ratio = f"model.fusion.attn_ratio={setup.attn_ratio}"
    recipes = {
        kind: load_recipe(SIZES[setup.size], [f"model.fusion.kind={kind}", ratio]) for kind in setup.fusions
    }
    settings = {**vars(setup), "fusions": list(recipes), "product_side": PRODUCT_SIDE}
    del settings["device"]  # the machine's
    about = measure.measured_on(setup.device, settings)
    try:
        return {**about, **_measure(SUITES[setup.benchmark](recipes, setup), setup)}
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        smaller = f"--batch {setup.batch // 2}" if setup.batch > 1 else "--size tiny"
        lacks = f"{setup.device} has too little memory for a batch of {setup.batch}"
        raise AvtoolError(lacks, hint=smaller) from error


def _measure(suite: Suite, setup: Setup) -> dict[str, Any]:
    passes, comparisons = suite
    timed = {PRODUCT: matrix_product(PRODUCT_SIDE, setup.device, PRECISIONS[setup.precision]), **passes}
    measures = {name: seconds_of(run, setup.device) for name, run in timed.items()}
    times = measure.interleave(measures, setup.rounds)
    product = measure.spread(times[PRODUCT])
    rate = 2 * PRODUCT_SIDE**3 / product["median"] / 1e9
    say("memory and arithmetic")
    results: dict[str, dict[str, Any]] = {
        name: {
            "name": name,
            "seconds": (taken := measure.spread(times[name])),
            "rounds": times[name],
            "gflop_equivalents": taken["median"] * rate,
            "gflop": (gflop := count_flops(run) / 1e9),
            "share_of_product_rate": gflop / (taken["median"] * rate),
            "samples_per_second": setup.batch / taken["median"],
            "peak_bytes": measure.peak_bytes(run, setup.device),
        }
        for name, run in passes.items()
    }
    ratios = []
    for over, under in ((results[over], results[under]) for over, under in comparisons):
        peaks = over["peak_bytes"] / under["peak_bytes"] if under["peak_bytes"] else None
        ratios.append({**measure.compare(over, under, "seconds"), "peak_bytes": peaks})
    built = results.get(ATTENTION + BUILT)
    return {
        "product": {"seconds": product, "gflop_per_second": rate},
        "results": list(results.values()),
        "ratios": ratios,
        "reference": built and built_pairs_in_words(built["gflop_equivalents"], setup),
    }


def built_pairs_in_words(taken: float, setup: Setup) -> str:
    """What attention that builds the pairs takes, in GFLOP-equivalents, beside the published one, and, in the setup
    that one was measured in, whether the two are too far apart for a fair reference."""
    comparable = setup == Setup("fusion", fusions=setup.fusions, rounds=setup.rounds)
    unfair = comparable and abs(taken / PUBLISHED_GFLOP_EQUIVALENTS - 1) > TOLERANCE
    return (
        f"dense attention with built pairs: {taken:,.0f} GFLOP-equivalents, published "
        f"{PUBLISHED_GFLOP_EQUIVALENTS:,.0f} at full size, batch 4, attn_ratio 0.25, float32, on a CPU"
        + (f": more than {TOLERANCE:.0%} apart, so ratios to built pairs do not count" if unfair else "")
    )


def fusion_suite(recipes: Mapping[str, Recipe], setup: Setup) -> Suite:
    """One fusion block of each kind, forward and backward to its weights and its inputs, on all patches; those that
    attend to pairs with and without building them; and dense attention without the rest of its block."""
    passes: dict[str, Pass] = {}
    comparisons = [(kind, "token") for kind in recipes if kind != "token" and "token" in recipes]
    comparisons += [("bilinear", "dense")] * ({"bilinear", "dense"} <= {*recipes})
    for kind, recipe in recipes.items():
        model: Any = build_empty_model(AUTOENCODER, flat(recipe.model) | {"depth": 1})
        encoder = model.encoder.to_empty(device=setup.device)
        encoder.reset_parameters()
        block: Any = encoder.fusion_blocks["0"]
        grids = (encoder.fusion_tokens.shape[1:2], encoder.image_grid, encoder.audio_grid)
        inputs = [setup.random(math.prod(grid), encoder.dim).requires_grad_() for grid in grids]
        modules: dict[str, nn.Module] = {kind: block}
        if kind != "token":
            modules[kind + BUILT] = with_built_pairs(block)
        if kind == "dense":
            modules |= {ATTENTION: block.attn, ATTENTION + BUILT: BuiltPairs(block.attn)}
        passes |= {name: forward_backward(module, inputs, setup) for name, module in modules.items()}
        comparisons += [(name, name.removesuffix(BUILT)) for name in modules if name.endswith(BUILT)]
    return passes, comparisons


def step_suite(recipes: Mapping[str, Recipe], setup: Setup) -> Suite:
    """Of each kind of fusion: a masked pretraining step (forward, loss, backward, AdamW), and forward and backward of
    the encoder on all patches. Log-mels and frames are there already; freed memory is kept, as in training."""
    keep_freed_memory(setup.device)
    models = shared_models(recipes, setup.device)
    recipe, encoder = next(iter(recipes.values())), next(iter(models.values())).encoder
    groups = parameter_groups(nn.ModuleDict(models), weight_decay=recipe.optim.weight_decay)
    optimizer = adamw(groups, betas=recipe.optim.betas)  # skips the weights of the models that did not run
    set_learning_rate(optimizer, recipe.optim.base_lr)
    inputs = [setup.random(3, *recipe.model.image_size), setup.random(1, *recipe.model.audio_size)]
    grids = (encoder.image_grid, encoder.audio_grid)
    noise = [torch.rand(setup.batch, math.prod(grid), device=setup.device) for grid in grids]
    steps = {
        "masked step": lambda model: masked_step(model, [*inputs, *noise], optimizer, setup),
        "unmasked encoder": lambda model: forward_backward(model.encoder, inputs, setup),
    }
    passes = {
        f"{kind}, {step}": make(model) for step, make in steps.items() for kind, model in models.items()
    }
    others = [kind for kind in models if kind != "token" and "token" in models]
    return passes, [(f"{kind}, {step}", f"token, {step}") for step in steps for kind in others]


SUITES = {"fusion": fusion_suite, "step": step_suite}


def shared_models(recipes: Mapping[str, Recipe], device: torch.device) -> dict[str, MaskedAutoencoder]:
    """Autoencoders with random weights, which have everything but their fusion blocks in common: a few of them take
    little more memory than one, and they can run by turns in one process."""
    models: dict[str, MaskedAutoencoder] = {}
    shared = ("encoder.image", "encoder.audio", "encoder.fusion_norm", "image_decoder", "audio_decoder")
    for kind, recipe in recipes.items():
        model: Any = build_empty_model(AUTOENCODER, flat(recipe.model)).to_empty(device=device)
        models[kind] = model
        first = next(iter(models.values()))
        for path in shared:
            model.set_submodule(path, first.get_submodule(path))
        model.encoder.fusion_tokens = first.encoder.fusion_tokens
        model.reset_parameters()
    return models


def masked_step(
    model: MaskedAutoencoder, inputs: Sequence[Tensor], optimizer: torch.optim.Optimizer, setup: Setup
) -> Pass:
    """A training step of ``model`` on image, audio and the noise that masks each."""
    forward = setup.compiled(model)
    image, audio, image_noise, audio_noise = inputs

    def run() -> None:
        with setup.autocast():
            parts = forward(image, audio, image_noise=image_noise, audio_noise=audio_noise)
            losses = (reconstruction_loss(part.prediction, part.target) for part in parts)
            loss = masked_autoencoding_loss(*losses)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def forward_backward(module: nn.Module, inputs: Sequence[Tensor], setup: Setup) -> Pass:
    """``module`` on ``inputs``, and back from a random gradient of its output to its weights and to those inputs that
    want a gradient."""
    leaves = [*inputs, *module.parameters()]
    forward = setup.compiled(module)
    gradients: list[Tensor] = []

    def run() -> None:
        with setup.autocast():
            out = forward(*inputs)
        outs = [out] if isinstance(out, Tensor) else list(out)
        if not gradients:
            gradients.extend(torch.randn_like(part) for part in outs)
        torch.autograd.backward(outs, gradients)
        for leaf in leaves:
            leaf.grad = None

    return run
