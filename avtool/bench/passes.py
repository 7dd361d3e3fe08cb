"""What is measured: passes by name, and which of them are compared."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from avtool.bench.measure import Pass
from avtool.bench.pairs import BuiltPairs, with_built_pairs
from avtool.config.schema import Recipe
from avtool.config.types import flat
from avtool.devices import autocast, keep_freed_memory
from avtool.losses import masked_autoencoding_loss, reconstruction_loss
from avtool.model.build import AUTOENCODER, build_empty_model, compile_blocks
from avtool.model.encoder import AudioVisualEncoder
from avtool.model.fusion import FusionBlock
from avtool.model.mae import MaskedAutoencoder
from avtool.model.transformer import grid_of
from avtool.optim import adamw, parameter_groups, set_learning_rate

BUILT = ", pairs built"
ATTENTION = "dense attention alone"


@dataclass(frozen=True)
class Suite:
    """Passes by name, and pairs of names whose times and bytes are compared, the first over the second."""

    passes: dict[str, Pass]
    comparisons: list[tuple[str, str]]


@dataclass(frozen=True)
class Setup:
    """How all passes of a run are computed."""

    batch: int
    device: torch.device
    precision: torch.dtype
    compile: bool

    def autocast(self) -> torch.autocast:
        """The precision of a forward pass, as in training."""
        return autocast(self.device, self.precision)

    def compiled(self, module: nn.Module) -> Callable[..., Any]:
        """``module`` through torch.compile where that was asked for: a model block by block, as in training."""
        if self.compile and isinstance(module, MaskedAutoencoder | AudioVisualEncoder):
            compile_blocks(module)
            return module
        return torch.compile(module.forward) if self.compile else module

    def random(self, *shape: int) -> Tensor:
        """Standard normal values (batch, *shape)."""
        return torch.randn(self.batch, *shape, device=self.device)


def patch_counts(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Image and audio patches of a model with these settings."""
    sizes = (settings["image_size"], settings["audio_size"])
    image, audio = (grid_of(height, width, settings["patch_size"]) for height, width in sizes)
    return math.prod(image), math.prod(audio)


def matrix_product(side: int, setup: Setup) -> Pass:
    """One product of two matrices ``side`` x ``side`` in the run's precision."""
    first, second = (torch.randn(side, side, device=setup.device).to(setup.precision) for _ in range(2))
    return lambda: first @ second


def fusion_suite(recipes: Mapping[str, Recipe], setup: Setup) -> Suite:
    """One fusion block of each kind, forward and backward to its weights and its inputs, on all patches; those that
    attend to pairs with and without building them; and dense attention without the rest of its block."""
    passes: dict[str, Pass] = {}
    comparisons = [(name, "token") for name in recipes if name != "token" and "token" in recipes]
    for kind, recipe in recipes.items():
        settings = flat(recipe.model)
        block = _fusion_block(settings).to(setup.device)
        counts = (sum(settings["fusion_tokens"]), *patch_counts(settings))
        inputs = [setup.random(count, settings["dim"]).requires_grad_() for count in counts]
        modules: dict[str, nn.Module] = {kind: block}
        if kind != "token":
            modules[kind + BUILT] = with_built_pairs(block)
        if kind == "dense":
            modules |= {ATTENTION: block.attn, ATTENTION + BUILT: BuiltPairs(block.attn)}
        for name, module in modules.items():
            passes[name] = forward_backward(module, inputs, setup)
            if name.endswith(BUILT):
                comparisons.append((name, name.removesuffix(BUILT)))
    return Suite(passes, comparisons)


def _fusion_block(settings: Mapping[str, Any]) -> FusionBlock:
    return FusionBlock(
        settings["dim"],
        kind=settings["fusion"],
        heads=settings["heads"],
        tokens=tuple(settings["fusion_tokens"]),
        attn_ratio=settings["fusion_attn_ratio"],
        mlp_ratio=settings["fusion_mlp_ratio"],
    )


def step_suite(recipes: Mapping[str, Recipe], setup: Setup) -> Suite:
    """Of each kind of fusion: a masked pretraining step (forward, loss, backward, AdamW), and forward and backward of
    the encoder on all patches. Log-mels and frames are there already; freed memory is kept, as in training."""
    keep_freed_memory(setup.device)
    models = shared_models({kind: flat(recipe.model) for kind, recipe in recipes.items()}, setup.device)
    recipe = next(iter(recipes.values()))
    groups = parameter_groups(nn.ModuleDict(models), weight_decay=recipe.optim.weight_decay)
    optimizer = adamw(groups, betas=recipe.optim.betas)  # skips the weights of the models that did not run
    set_learning_rate(optimizer, recipe.optim.base_lr)
    image, audio = setup.random(3, *recipe.model.image_size), setup.random(1, *recipe.model.audio_size)
    counts = patch_counts(flat(recipe.model))
    noise = [torch.rand(setup.batch, count, device=setup.device) for count in counts]
    kinds = {
        "masked step": lambda model: _masked_step(model, [image, audio, *noise], optimizer, setup),
        "unmasked encoder": lambda model: forward_backward(model.encoder, [image, audio], setup),
    }
    passes = {
        f"{fusion}, {kind}": make(model) for kind, make in kinds.items() for fusion, model in models.items()
    }
    others = [fusion for fusion in models if fusion != "token" and "token" in models]
    return Suite(passes, [(f"{fusion}, {kind}", f"token, {kind}") for kind in kinds for fusion in others])


def shared_models(
    settings: Mapping[str, Mapping[str, Any]], device: torch.device
) -> dict[str, MaskedAutoencoder]:
    """Autoencoders with random weights, which have everything but their fusion blocks in common: a few of them take
    little more memory than one, and they can run by turns in one process."""
    models: dict[str, MaskedAutoencoder] = {}
    for name, arguments in settings.items():
        model: Any = build_empty_model(AUTOENCODER, arguments).to_empty(device=device)
        models[name] = model
        for path in (
            "encoder.image",
            "encoder.audio",
            "encoder.fusion_norm",
            "image_decoder",
            "audio_decoder",
        ):
            model.set_submodule(path, next(iter(models.values())).get_submodule(path))
        model.encoder.fusion_tokens = next(iter(models.values())).encoder.fusion_tokens
        model.reset_parameters()
    return models


def _masked_step(
    model: MaskedAutoencoder, inputs: Sequence[Tensor], optimizer: torch.optim.Optimizer, setup: Setup
) -> Pass:
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


def forward_backward(module: nn.Module, inputs: Iterable[Tensor], setup: Setup) -> Pass:
    """``module`` on ``inputs``, and back from a random gradient of its output to its weights and to those inputs that
    want a gradient."""
    inputs = list(inputs)
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
