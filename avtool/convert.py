"""Published checkpoints into avtool's folder: what the tensors tell is inferred, the rest is assumed and said."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from avtool.checkpoint import check_finite, misfits, save_checkpoint
from avtool.config.checkpoint import Config, config_of, divided
from avtool.config.model import Decoders, Fusion, Spectrogram
from avtool.config.types import argument, flat, keys
from avtool.config.values import explain
from avtool.errors import CheckpointError, UsageError, did_you_mean
from avtool.files import check_output
from avtool.model.build import AUTOENCODER, build_empty_model
from avtool.model.published import FIXED_POSITIONS, from_published, to_published
from avtool.progress import say
from avtool.registry import TASKS, VIT
from avtool.vits import has_streams, is_fixed_table, one_encoder
from avtool.weight_files import part_of, read_state_dict

HEAD_WIDTH, DECODER_HEAD_WIDTH = 64, 32
TOKENS = [16, 8, 8]
MELS = 128
_MARKS = {
    AUTOENCODER: r"(image|audio)_decoder_",
    "separation": r"avss_decoder\.",
    "segmentation": r"(normv|predictor)\.",
    "linear_probe": r"(image|audio|fusion)_norm\.running_mean",
    "classifier": r"(image|audio|fusion)_head\.",
    VIT: r"blocks(_a)?\.0\.",
}
"""Which keys give a kind of model away, in the order in which they are looked for."""
ASSUMED = (
    "heads", "decoder_heads", "fusion_tokens", "image_size", "audio_size", "mask_ratio_image", "mask_ratio_audio",
    *Spectrogram.model_fields,
)  # fmt: skip
"""The settings that no tensor tells, or not all of it."""


def convert(
    path: Path,
    out: Path,
    *,
    assume: Mapping[str, Any] | None = None,
    origin: str = "",
    key: str | None = None,
    drop_positions: bool = False,
    force: bool = False,
) -> Config:
    """Read a published checkpoint and write it as a folder that every command takes; returns its config.json.

    ``path``: a .pth file (a dict with ``state_dict`` or ``model``, or bare) or .safetensors of a masked autoencoder,
    classifier, linear probe, separation or segmentation model, or of a ViT (see ``avtool.vits``; kind ``vit``: a
    starting point for one encoder). ``key`` chooses what is read of a file that holds several; ``drop_positions`` goes
    on without a ViT's learned positions. What is left out or changed is said.

    ``assume`` takes the place of the published models' values where no tensor tells: ``heads`` and ``decoder_heads``
    (dim / 64 and decoder dim / 32), ``fusion_tokens`` (fusion, image-aggregating, audio-aggregating: 16, 8, 8),
    ``image_size`` (rows, columns: a square), ``audio_size`` (mel bands, frames: 128 bands), ``mask_ratio_image`` and
    ``mask_ratio_audio`` (0.75 and 0.8), ``stream`` (image or audio, of a CAV-MAE), and the spectrogram's
    ``sample_rate``, ``n_fft`` and ``hop`` in samples (16000, 800, 250). What a tensor tells may be named as well, and
    is checked.

    CheckpointError names whatever the file may be instead, and every key that is missing, unexpected or of another
    shape or not finite; UsageError where ``assume`` does not go with it. Nothing is written before all is known to fit.
    ``origin`` goes into config.json (none: the file's name).
    """
    check_output(out, force=force, markers=("config.json",))
    assume = dict(assume or {})
    state = read_published(path, key=key)
    check_finite(state, source=path)
    if kind_of(state) == VIT:
        stream = assume.pop("stream", None) if has_streams(state) else None
        state, note = one_encoder(state, source=path, stream=stream, drop_positions=drop_positions)
    else:
        other = any(FIXED_POSITIONS.search(name) and not is_fixed_table(state[name]) for name in state)
        note = "without the positions of its encoders, which are not the fixed table" if other else ""
    if note:
        say(f"{path}: {note}")
    config = infer(state, assume, source=path, origin=origin or f"converted from {path.name}")
    try:
        model = build_empty_model(config.kind, config.settings)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"{path} cannot be converted: {error}", hint=_HINT) from error
    fusion = config.settings.get("fusion", "token")
    wanted = to_published(model.state_dict(), fusion=fusion)
    if problems := misfits(state, wanted):
        raise CheckpointError(
            f"the weights of {path} do not fit a published {config.kind}: {'; '.join(problems)}",
            hint="convert the file as it was published, or set what no tensor tells (avtool convert --help)",
        )
    model.load_state_dict(from_published(state, fusion=fusion), assign=True)
    save_checkpoint(out, model=model, config=config)
    return config


_HINT = "set what no tensor tells to fit, as heads=12 or decoder_heads=4 (avtool convert --help)"


def read_published(path: Path, *, key: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file under a published model's own keys, in float32; ``key`` and what is said as in
    ``read_state_dict``. CheckpointError where the file holds no state dict, or models under several names."""
    content = read_state_dict(path, key=key)
    if kind_of(content) is not None:
        return content
    for mark in _MARKS.values():
        found = {match[1] for name in content if (match := re.match(rf"(.+?)\.{mark}", name))}
        if len(found) == 1:
            return part_of(content, *found, source=path)
        if found:
            names = ", ".join(sorted(found))
            raise CheckpointError(
                f"{path} holds models under several names: {names}",
                hint=f"choose one: avtool convert {path} --key {min(found)}",
            )
    return content


def kind_of(state: Mapping[str, Tensor]) -> str | None:
    """The kind of a published model by its keys."""
    return next((kind for kind, mark in _MARKS.items() if any(re.match(mark, key) for key in state)), None)


def infer(state: dict[str, Tensor], assume: Mapping[str, Any], *, source: Path, origin: str) -> Config:
    """What the tensors of a published state dict tell, and the rest from ``assume`` or as the published models have it.
    Takes the encoders' fixed positions out of ``state``."""
    kind = kind_of(state)
    if kind is None:
        raise CheckpointError(
            f"{source} is no published model: its keys begin with {', '.join(list(state)[:3])}",
            hint="there are masked autoencoder, classifier, linear probe, separation, segmentation, and ViTs in timm's "
            "names (blocks.0.attn.qkv)",
        )
    file = _File(state, source)
    told = file.settings(kind)
    for key, value in assume.items():
        if key not in told:
            raise UsageError(f"{key} is no setting of this {kind}", hint=did_you_mean(key, told))
        if key not in ASSUMED and value != told[key]:
            raise UsageError(f"{key} is {value}, {source} has {told[key]}", hint=f"leave {key}= out")
    if (settings := {**told, **assume})["heads"] is None:
        raise UsageError(
            f"{source} is {told['dim']} wide, which heads of {HEAD_WIDTH} do not divide, and no tensor tells how many "
            "there are",
            hint="add heads=N",
        )
    wanted, content = config_of(kind), {"kind": kind, "origin": origin, **divided(kind, settings)}
    try:
        config = wanted.model_validate(content)
    except ValidationError as error:
        wrong = explain(error, content, dict(keys(wanted)), called=lambda key: argument(*key.split(".")[1:]))
        raise UsageError(
            f"{source} cannot be converted: {wrong.message}", hint=f"{wrong.hint}; {_HINT}"
        ) from error
    if kind != VIT:
        file.check(config)
    return config


def ratio_of(width: int, dim: int) -> float:
    """``width`` / ``dim`` such that int(dim * ratio) is ``width`` again."""
    ratio = width / dim
    return ratio if int(dim * ratio) == width else math.nextafter(ratio, math.inf)


class _File:
    """What the shapes and names of a published state dict tell."""

    def __init__(self, state: dict[str, Tensor], source: Path) -> None:
        self.state, self.source = state, source
        positions = {key: self.count(key) for key in state if FIXED_POSITIONS.search(key)}
        for key in positions:
            del state[key]
        self.patches = {
            part: positions.get(f"encoder.{part}.pos_embed") or self.count(f"{part}_decoder_pos_embed")
            for part in ("image", "audio")
        }

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

    def numbers(self, prefix: str) -> list[int]:
        """N of all keys PREFIX N.*, in order."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return sorted({int(match[1]) for key in self.state if (match := pattern.match(key))})

    def depth(self, prefix: str) -> int:
        return 1 + max(self.numbers(prefix), default=-1)

    def settings(self, kind: str) -> dict[str, Any]:
        """The keyword arguments of a model of ``kind``, and of its spectrogram."""
        if kind == VIT:
            return {"channels": self.shape("patch_embed.proj.weight", 4)[1], **self.vit("")}
        found = {**self.vit("encoder.image."), **self.fusion(), **Spectrogram().model_dump()}
        patch = found["patch_size"]
        side = math.isqrt(self.patches["image"]) if self.patches["image"] else 224 // patch
        rows = max(1, MELS // patch)
        columns = self.patches["audio"] // rows if self.patches["audio"] else 192 // patch
        found |= {"image_size": [side * patch] * 2, "audio_size": [rows * patch, columns * patch]}
        if kind == AUTOENCODER:
            dim = self.shape("image_decoder_embed.weight", 2)[0]
            found |= flat(Decoders()) | {
                "decoder_dim": dim,
                "decoder_depth": self.depth("image_decoder_blocks."),
                "decoder_heads": max(1, dim // DECODER_HEAD_WIDTH),
            }
        if kind in TASKS["classify"].kinds:
            found["classes"] = self.shape("image_head.weight", 2)[0]
        if kind == "segmentation":
            found["classes"] = self.shape("predictor.2.weight", 4)[0]
        return found

    def vit(self, prefix: str) -> dict[str, Any]:
        """Those of one modality's encoder."""
        kernel = self.shape(f"{prefix}patch_embed.proj.weight", 4)
        dim = kernel[0]
        if kernel[2] != kernel[3]:
            raise CheckpointError(
                f"{self.source}: patches are {kernel[2:]}, not square",
                hint="only models with square patches are read",
            )
        return {
            "patch_size": kernel[2],
            "dim": dim,
            "depth": self.depth(f"{prefix}blocks."),
            "heads": None if dim % HEAD_WIDTH else dim // HEAD_WIDTH,
            "mlp_ratio": ratio_of(self.shape(f"{prefix}blocks.0.mlp.fc1.weight", 2)[0], dim),
        }

    def fusion(self) -> dict[str, Any]:
        """Those of the fusion tokens and blocks."""
        total, dim = self.shape("encoder.fusion_tokens", 3)[1:]
        layers = self.numbers("encoder.fusion_blocks.")
        found = flat(Fusion(kind="factorized", layers="none"), "fusion")
        if layers:
            first = f"encoder.fusion_blocks.{layers[0]}."
            if f"{first}attn.attn_v.q.weight" not in self.state:
                read = self.shape(f"{first}attn.kv.weight", 2)[1]
                found["fusion"] = "dense" if read == 2 * dim else "token"
            whole = layers == list(range(self.depth("encoder.image.blocks.")))
            found |= {
                "fusion_layers": "all" if whole else layers,
                "fusion_attn_ratio": ratio_of(self.shape(f"{first}attn.q.weight", 2)[0], dim),
                "fusion_mlp_ratio": ratio_of(self.shape(f"{first}mlp.fc1.weight", 2)[0], dim),
            }
        published = total == sum(TOKENS) or found["fusion"] == "factorized"
        return found | {"fusion_tokens": TOKENS if published else [total, 0, 0]}

    def check(self, config: Config) -> None:
        """UsageError where ``config`` has other numbers of learned tokens and of patches than the file."""
        total, tokens = self.shape("encoder.fusion_tokens", 3)[1], config.model.fusion.tokens
        if sum(tokens) != total:
            raise UsageError(
                f"the file has {total} learned tokens, which are not {' + '.join(map(str, tokens))}",
                hint="add fusion_tokens=[FUSION,IMAGE,AUDIO], as they were trained",
            )
        patch = config.model.patch_size
        for part, form in (("image", "[H,W]"), ("audio", "[MELS,FRAMES]")):
            height, width = getattr(config.model, f"{part}_size")
            rows, columns, count = height // patch, width // patch, self.patches[part]
            if count is not None and rows * columns != count:
                raise UsageError(
                    f"the file has positions of {count} {part} patches, but {height},{width} makes {rows} x {columns} "
                    f"= {rows * columns}",
                    hint=f"add {part}_size={form} of the model, with {count} patches of {patch}x{patch}",
                )
