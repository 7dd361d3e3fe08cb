"""The encoder of one modality in the file of another program's ViT: MAE, AudioMAE, DeiT, DINO, AST, CAV-MAE.

AST (arXiv 2104.01778) is a ViT under ``v.`` with patches of one channel. CAV-MAE (arXiv 2210.07839) has blocks of the
pictures, ``blocks_v``, of the sounds, ``blocks_a``, and behind them ``blocks_u`` of both, with norms of their own for
each; what says which of the two a patch is of, ``modality_v`` and ``modality_a``, is added to the embedded patch.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from avtool.errors import CheckpointError, UsageError
from avtool.model.transformer import sincos_positions

POSITIONS, KERNEL, BIAS = "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"
LEFT_OUT = {
    "cls_token": "class token",
    "dist_token": "distillation token",
    POSITIONS: "positions (the fixed table takes their place)",
    "mask_token": "mask token",
    "attn_pool.": "attention pooling",
    "fc_norm.": "norm of the pooled features",
    "head": "head",
    "mlp_head": "head",
    "classifier": "head",
    "projector": "projector",
    "decoder": "decoder",
}
"""What lies before or behind the blocks and is left out: beginning of its keys -> name."""
STREAMS = {"image": "v", "audio": "a"}


def one_encoder(
    state: Mapping[str, Tensor], *, source: Path, stream: str | None = None, drop_positions: bool = False
) -> tuple[dict[str, Tensor], str]:
    """What of a ViT's tensors the encoder of one modality has, and in words what was left out or changed.

    ``stream``: image or audio, of a CAV-MAE. CheckpointError for learned positions, unless ``drop_positions``: the
    encoders here have the fixed table. UsageError for a CAV-MAE without ``stream``.
    """
    notes = []
    if has_streams(state):
        if stream not in STREAMS:
            raise UsageError(
                f"{source} holds an encoder of pictures and one of sounds",
                hint="add stream=image or stream=audio",
            )
        state = _of_cav_mae(state, STREAMS[stream])
        notes.append(f"of its {stream} stream alone, with the token of that stream in the patches' bias")
    left = left_out(state)
    if LEFT_OUT[POSITIONS] in left and not drop_positions:
        raise CheckpointError(
            f"{source} has learned positions, for which the encoders here have no place: theirs are fixed",
            hint=f"avtool convert {source} --out DIR --drop-positions goes on without them",
        )
    weights = {key: value for key, value in state.items() if not key.startswith(tuple(LEFT_OUT))}
    if left:
        notes.append(f"without its {', '.join(left)}")
    if "norm.weight" not in weights and "fc_norm.weight" in state:
        weights |= {"norm.weight": torch.ones_like(state["fc_norm.weight"])}
        weights |= {"norm.bias": torch.zeros_like(state["fc_norm.weight"])}
        notes.append("with a new final norm")
    return weights, "; ".join(notes)


def left_out(state: Mapping[str, Tensor]) -> list[str]:
    """Names of what of a ViT's tensors is left out; positions are none where they are the fixed table."""
    known = [POSITIONS] if POSITIONS in state and is_fixed_table(state[POSITIONS]) else []
    starts = [
        start for start in LEFT_OUT if any(key.startswith(start) for key in state) and start not in known
    ]
    return list(dict.fromkeys(LEFT_OUT[start] for start in starts))


def has_streams(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a CAV-MAE."""
    return all(any(key.startswith(f"blocks_{letter}.") for key in state) for letter in STREAMS.values())


def _of_cav_mae(state: Mapping[str, Tensor], letter: str) -> dict[str, Tensor]:
    """One stream of a CAV-MAE under a plain ViT's keys, and what is of no stream, or unknown."""
    other = "av".replace(letter, "")
    passed = re.compile(
        rf"(blocks|patch_embed|norm|pos_embed)_{other}(\..*)?|modality_[av]|norm\..*"
        r"|blocks_[auv]\.\d+\.norm[12](_[av])?\..*"
    )
    own = re.compile(rf"blocks_{letter}\.(\d+)\.((?:norm[12]|attn|mlp)\..*)")
    shared = re.compile(rf"blocks_u\.(\d+)\.(?:(norm[12])_{letter}|(attn\.\w+|mlp\.\w+))\.(.*)")
    depth = 1 + max(int(match[1]) for key in state if (match := own.fullmatch(key)))
    found = {key: value for key, value in state.items() if key.startswith(tuple(LEFT_OUT))}
    for key, value in state.items():
        if match := own.fullmatch(key):
            found[f"blocks.{match[1]}.{match[2]}"] = value
        elif match := shared.fullmatch(key):
            found[f"blocks.{depth + int(match[1])}.{match[2] or match[3]}.{match[4]}"] = value
        elif match := re.fullmatch(rf"(patch_embed|norm|pos_embed)_{letter}(\..*)?", key):
            found[f"{match[1]}{match[2] or ''}"] = value
        elif not passed.fullmatch(key):
            found[key] = value
    if BIAS in found and f"modality_{letter}" in state:
        found[BIAS] = found[BIAS] + state[f"modality_{letter}"].flatten()
    return found


def is_fixed_table(positions: Tensor) -> bool:
    """Whether (1, prefix + N, D) positions, with a prefix of up to two tokens, are those that the encoders have for
    some grid of N patches."""
    if positions.ndim != 3 or positions.shape[2] % 4:
        return False
    rows, width = positions.shape[1:]
    for count in range(max(1, rows - 2), rows + 1):
        own = positions[0, rows - count :].float()
        for height in (height for height in range(1, count + 1) if count % height == 0):
            if torch.allclose(
                own, sincos_positions(width, (height, count // height)), atol=2e-3
            ):  # as bfloat16 leaves them
                return True
    return False


def spread_over_colours(weights: Mapping[str, Tensor], channels: int) -> tuple[dict[str, Tensor], str]:
    """A patch embedding of one channel for frames of three, as it sees a grey one; and what was done, in words."""
    kernel = weights.get(KERNEL)
    if channels != 3 or kernel is None or kernel.ndim != 4 or kernel.shape[1] != 1:
        return dict(weights), ""
    return {**weights, KERNEL: kernel.expand(-1, 3, -1, -1) / 3}, "its one channel spread over three colours"
