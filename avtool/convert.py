"""Published checkpoints into avtool's folder: what the tensors tell is inferred, the rest is assumed and said."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avtool.checkpoint import misfits, read_pickled_weights, read_safetensors, save_checkpoint
from avtool.errors import CheckpointError, UsageError
from avtool.files import check_output
from avtool.model.build import AUTOENCODER, VIT, build_empty_model
from avtool.model.config import Config
from avtool.model.published import FIXED_POSITIONS, from_published, to_published
from avtool.registry import TASKS

HEAD_WIDTH, DECODER_HEAD_WIDTH = 64, 32
TOKENS = (16, 8, 8)
MELS = 128
LEFT_OUT_OF_VITS = ("cls_token", "pos_embed", "mask_token", "decoder")
_MARKS = {
    AUTOENCODER: r"(image|audio)_decoder_",
    "separation": r"avss_decoder\.",
    "segmentation": r"(normv|predictor)\.",
    "linear_probe": r"(image|audio|fusion)_norm\.running_mean",
    "classifier": r"(image|audio|fusion)_head\.",
    VIT: r"blocks\.0\.",
}
"""Which keys give a kind of model away, in the order in which they are looked for."""


@dataclass(frozen=True)
class Assumptions:
    """What no tensor tells: given by the caller, or None for the published models' values.

    ``heads`` and ``decoder_heads`` (dim / 64 and decoder dim / 32), ``tokens`` (fusion, image-aggregating,
    audio-aggregating: 16, 8, 8), ``image_size`` (rows, columns: a square), ``audio_size`` (mel bands, frames: 128
    bands), mask ratios (0.75 and 0.8), and the spectrogram's sample rate, window and hop in samples (16000, 800, 250).
    ``patch_size`` and the sizes are checked where the file does tell.
    """

    heads: int | None = None
    decoder_heads: int | None = None
    tokens: tuple[int, int, int] | None = None
    image_size: tuple[int, int] | None = None
    audio_size: tuple[int, int] | None = None
    patch_size: int | None = None
    image_mask_ratio: float = 0.75
    audio_mask_ratio: float = 0.8
    sample_rate: int = 16000
    n_fft: int = 800
    hop: int = 250


def convert(
    path: Path, out: Path, *, assume: Assumptions = Assumptions(), origin: str = "", force: bool = False
) -> Config:
    """Read a published checkpoint and write it as a folder that every command takes; returns its config.json.

    ``path``: a .pth file (a dict with ``state_dict`` or ``model``, or bare) or .safetensors of a masked autoencoder,
    classifier, linear probe, separation or segmentation model, or of a plain MAE or AudioMAE ViT (kind ``vit``: a
    starting point for one encoder). CheckpointError names whatever the file may be instead, and every key that is
    missing, unexpected or of another shape; UsageError where ``assume`` does not go with it. Nothing is written before
    all is known to fit. ``origin`` goes into config.json (none: the file's name).
    """
    check_output(out, force=force, markers=("config.json",))
    state = read_published(path)
    kind, settings = infer(state, assume, source=path)
    config = _configure(kind, settings, assume, origin=origin or f"converted from {path.name}")
    hint = "set --heads, --decoder-heads, --tokens or --spectrogram to fit"
    if fault := config.fault():
        raise UsageError(f"{path} cannot be converted: {fault}", hint=hint)
    settings = config.model
    try:
        model = build_empty_model(kind, settings)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"{path} cannot be converted: {error}", hint=hint) from error
    fusion = settings.get("fusion", "token")
    wanted = to_published(model.state_dict(), fusion=fusion)
    if problems := misfits(state, wanted):
        raise CheckpointError(
            f"the weights of {path} do not fit a published {kind}: {'; '.join(problems)}",
            hint="convert the file as it was published, or set what no tensor tells (avtool convert --help)",
        )
    model.load_state_dict(from_published(state, fusion=fusion), assign=True)
    save_checkpoint(out, model=model, config=config)
    return config


def _configure(kind: str, settings: dict[str, Any], assume: Assumptions, *, origin: str) -> Config:
    spectrogram: dict[str, Any] = {}
    if kind != VIT:
        spectrogram = {"sample_rate": assume.sample_rate, "n_fft": assume.n_fft, "hop": assume.hop}
    return Config(kind=kind, model=settings, spectrogram=spectrogram, origin=origin).complete()


def assumed_keys(config: Config) -> list[str]:
    """The keys of a converted model's settings that no tensor tells."""
    untold = ("heads", "decoder_heads", "fusion_tokens", "image_size", "audio_size", "image_mask_ratio")
    return [key for key in (*untold, "audio_mask_ratio") if key in config.model]


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of a published file under its own keys, in float32, without the encoders' fixed positions.

    CheckpointError where the file holds no state dict.
    """
    content = read_state_dict(path)
    if "blocks.0.norm1.weight" in content:
        content = {key: value for key, value in content.items() if not key.startswith(LEFT_OUT_OF_VITS)}
    return content


def read_state_dict(path: Path, *, keys: Sequence[str] = ("state_dict", "model")) -> dict[str, Tensor]:
    """The tensors of a file, bare or under the first of ``keys`` that it has, in float32. CheckpointError where there
    are none."""
    content: dict[str, Any] = (
        read_safetensors(path) if path.suffix == ".safetensors" else read_pickled_weights(path)
    )
    for key in keys:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not content or not all(_is_weight(key, value) for key, value in content.items()):
        shown = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise CheckpointError(
            f"{path} holds no state dict, neither bare nor under {' or '.join(keys)} (it holds {shown})",
            hint="save the model's state dict with torch.save",
        )
    if all(key.startswith("module.") for key in content):  # as torch's data parallel wrapper saves them
        content = {key.removeprefix("module."): value for key, value in content.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in content.items()}


def _is_weight(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor) and value.layout is torch.strided


def infer(state: dict[str, Tensor], assume: Assumptions, *, source: Path) -> tuple[str, dict[str, Any]]:
    """The kind and the settings of a published state dict; takes the encoders' fixed positions out of it."""
    kind = next((kind for kind, mark in _MARKS.items() if any(re.match(mark, key) for key in state)), None)
    if kind is None:
        raise CheckpointError(
            f"{source} is no published model: its keys begin with {', '.join(list(state)[:3])}",
            hint="there are masked autoencoder, classifier, linear probe, separation, segmentation, and MAE's ViT",
        )
    file = _File(state, source)
    if kind == VIT:
        channels = file.shape("patch_embed.proj.weight", 4)[1]
        return kind, {"channels": channels, **file.vit("", assume)}
    settings = {**file.vit("encoder.image.", assume), **file.fusion(assume)}
    positions = {key: file.count(key) for key in state if FIXED_POSITIONS.search(key)}
    for key in positions:
        del state[key]
    for part, given in (("image", assume.image_size), ("audio", assume.audio_size)):
        counts = (positions.get(f"encoder.{part}.pos_embed"), file.count(f"{part}_decoder_pos_embed"))
        count = next((count for count in counts if count), None)
        settings[f"{part}_size"] = _size(part, given, count, settings["patch_size"])
    if kind == AUTOENCODER:
        dim = file.shape("image_decoder_embed.weight", 2)[0]
        settings |= {
            "decoder_dim": dim,
            "decoder_depth": file.depth("image_decoder_blocks."),
            "decoder_heads": assume.decoder_heads or max(1, dim // DECODER_HEAD_WIDTH),
            "image_mask_ratio": assume.image_mask_ratio,
            "audio_mask_ratio": assume.audio_mask_ratio,
        }
    if kind in TASKS["classify"].kinds:
        settings["classes"] = file.shape("image_head.weight", 2)[0]
    if kind == "segmentation":
        settings["classes"] = file.shape("predictor.2.weight", 4)[0]
    return kind, settings


def _ratio(width: int, dim: int) -> float:
    """``width`` / ``dim`` such that int(dim * ratio) is ``width`` again."""
    ratio = width / dim
    return ratio if int(dim * ratio) == width else math.nextafter(ratio, math.inf)


class _File:
    """What the shapes and names of a published state dict tell."""

    def __init__(self, state: dict[str, Tensor], source: Path) -> None:
        self.state, self.source = state, source

    def shape(self, key: str, dimensions: int) -> tuple[int, ...]:
        """CheckpointError where a tensor that everything rests on is not there, or not of so many dimensions."""
        if key not in self.state:
            raise CheckpointError(
                f"{self.source} has no {key}, so it is no published model or a part of one",
                hint="convert the file as it was published",
            )
        shape = tuple(self.state[key].shape)
        if len(shape) != dimensions:
            raise CheckpointError(
                f"{self.source}: {key} is of shape {shape}, not of {dimensions} dimensions",
                hint="convert the file as it was published",
            )
        return shape

    def count(self, key: str) -> int | None:
        """Rows of a table of positions, if there is one."""
        return self.shape(key, 3)[1] if key in self.state else None

    def depth(self, prefix: str) -> int:
        return 1 + max(self.numbers(prefix), default=-1)

    def numbers(self, prefix: str) -> list[int]:
        """N of all keys PREFIX N.*, in order."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return sorted({int(match[1]) for key in self.state if (match := pattern.match(key))})

    def vit(self, prefix: str, assume: Assumptions) -> dict[str, Any]:
        kernel = self.shape(f"{prefix}patch_embed.proj.weight", 4)
        dim = kernel[0]
        if kernel[2] != kernel[3]:
            raise CheckpointError(
                f"{self.source}: patches are {kernel[2:]}, not square",
                hint="only models with square patches are read",
            )
        if assume.patch_size not in (None, kernel[2]):
            raise UsageError(
                f"--patch-size is {assume.patch_size}, the patches of {self.source} are {kernel[2]}x{kernel[3]}",
                hint="leave --patch-size out",
            )
        if assume.heads is None and dim % HEAD_WIDTH:
            raise UsageError(
                f"{self.source} is {dim} wide, which heads of {HEAD_WIDTH} do not divide, and no tensor tells "
                "how many there are",
                hint="add --heads N",
            )
        return {
            "patch_size": kernel[2],
            "dim": dim,
            "depth": self.depth(f"{prefix}blocks."),
            "heads": assume.heads or dim // HEAD_WIDTH,
            "mlp_ratio": _ratio(self.shape(f"{prefix}blocks.0.mlp.fc1.weight", 2)[0], dim),
        }

    def fusion(self, assume: Assumptions) -> dict[str, Any]:
        total, dim = self.shape("encoder.fusion_tokens", 3)[1:]
        blocks = "encoder.fusion_blocks."
        layers = self.numbers(blocks)
        settings: dict[str, Any] = {"fusion": "factorized", "fusion_layers": "none"}
        if layers:
            first = f"{blocks}{layers[0]}."
            if f"{first}attn.attn_v.q.weight" not in self.state:
                read = self.shape(f"{first}attn.kv.weight", 2)[1]
                settings["fusion"] = "dense" if read == 2 * dim else "token"
            whole = layers == list(range(self.depth("encoder.image.blocks.")))
            settings |= {
                "fusion_layers": "all" if whole else layers,
                "fusion_attn_ratio": _ratio(self.shape(f"{first}attn.q.weight", 2)[0], dim),
                "fusion_mlp_ratio": _ratio(self.shape(f"{first}mlp.fc1.weight", 2)[0], dim),
            }
        return settings | {"fusion_tokens": list(_tokens(assume.tokens, total, settings["fusion"]))}


def _tokens(given: tuple[int, int, int] | None, total: int, fusion: str) -> tuple[int, int, int]:
    tokens = given or (TOKENS if total == sum(TOKENS) or fusion == "factorized" else (total, 0, 0))
    if sum(tokens) != total:
        shown = " + ".join(map(str, tokens))
        raise UsageError(
            f"the file has {total} learned tokens, which are not {shown}",
            hint="add --tokens FUSION,IMAGE,AUDIO, as they were trained",
        )
    return tokens


def _size(part: str, given: tuple[int, int] | None, count: int | None, patch: int) -> list[int]:
    """Height and width of an input: ``given``, or the published shape of ``count`` patches."""
    option = f"--{part}-size {'H,W' if part == 'image' else 'MELS,FRAMES'}"
    if given is None:
        if part == "image":
            rows = math.isqrt(count) if count else 224 // patch
            given = rows * patch, rows * patch
        else:
            rows = max(1, MELS // patch)
            given = rows * patch, (count // rows if count else 192 // patch) * patch
    if given[0] % patch or given[1] % patch:
        raise UsageError(
            f"the {part} size {given[0]},{given[1]} is not divided by patches of {patch}x{patch}",
            hint=f"add {option}",
        )
    rows, columns = given[0] // patch, given[1] // patch
    if count is not None and rows * columns != count:
        raise UsageError(
            f"the file has positions of {count} {part} patches, but {given[0]},{given[1]} makes {rows} x {columns} "
            f"= {rows * columns}",
            hint=f"add {option} of the model, with {count} patches of {patch}x{patch}",
        )
    return list(given)
