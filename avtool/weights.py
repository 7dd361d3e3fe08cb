"""Published weights by name, and single-modality ViTs as starting points of the two encoders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from avtool.checkpoint import check_fit, read_pickled_weights, read_safetensors
from avtool.errors import CheckpointError
from avtool.model.encoder import VisionTransformer
from avtool.places import cache_root

NONE = "none"


@dataclass(frozen=True)
class Published:
    """A file of published weights: where it is, and under which licence."""

    url: str
    licence: str


_DEEPAVFUSION = "https://media.githubusercontent.com/media/stoneMo/DeepAVFusion/main/"
PUBLISHED = {
    "mae-vitb": Published(
        "https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth", "CC BY-NC 4.0 (MAE)"
    ),
    "audiomae-vitb": Published(
        _DEEPAVFUSION + "assets/models/vitbase_audiomae_as2m.pth", "AudioMAE's own, see its repository"
    ),
}


def cached_file(name: str) -> Path:
    """Where the file of published weights ``name`` is kept."""
    return cache_root() / "weights" / f"{name}.pth"


def find_starting_weights(key: str, value: str) -> Path | None:
    """The file that recipe key ``key`` = ``value`` names: published weights in the cache, a path, or None for ``none``.

    CheckpointError, with the ways out, where it is not there.
    """
    if value == NONE:
        return None
    if value in PUBLISHED:
        path, published = cached_file(value), PUBLISHED[value]
        if path.is_file():
            return path
        raise CheckpointError(
            f"the starting weights {key}={value} are not at {path}",
            hint=f"(1) fetch {published.url} to that path (licence: {published.licence}), or name your copy with "
            f"{key}=PATH; (2) start from random weights with {key}=none",
        )
    path = Path(value)
    if path.is_file():
        return path
    raise CheckpointError(
        f"{key}={value} is neither a file nor one of {', '.join(PUBLISHED)}, none",
        hint=f"(1) correct the path; (2) start from random weights with {key}=none",
    )


def read_vit(path: Path) -> dict[str, Tensor]:
    """The encoder of a plain MAE or AudioMAE file under timm's names, without class token, positions and decoder."""
    if path.suffix == ".safetensors":
        state = read_safetensors(path)
    else:
        content = read_pickled_weights(path)
        state = content["model"] if isinstance(content.get("model"), dict) else content
    left_out = ("cls_token", "pos_embed", "mask_token", "decoder")
    return {key: value for key, value in state.items() if not key.startswith(left_out)}


def load_vit(encoder: VisionTransformer, path: Path) -> None:
    """Start one modality's encoder from the weights in ``path``. CheckpointError names what does not fit."""
    weights = read_vit(path)
    hint = "use weights of the recipe's model.dim, model.depth and model.patch_size, or change those"
    check_fit(weights, encoder, source=path, hint=hint)
    encoder.load_state_dict(weights)
