"""Clips as tokens: the Python API behind ``avtool embed``."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from avtool.devices import resolve_device
from avtool.errors import MediaError
from avtool.files import check_output, write_numpy
from avtool.model.encoder import encoder_of
from avtool.model.heads import pool
from avtool.predict import Clips, Failed, choose_model


def embed(
    clips: Sequence[Path],
    *,
    out: Path = Path("tokens.npz"),
    audio: Path | None = None,
    model: Path | None = None,
    every: float | None = None,
    device: str = "auto",
    force: bool = False,
    failed: Failed | None = None,
) -> dict[str, np.ndarray]:
    """Write the encoder's tokens of ``clips`` (videos, or one picture with the sound file ``audio``) to ``out``, an
    .npz, and return them: N windows, the middle one of each clip, or one ``every`` so many seconds.

    Of a sound or a picture alone, or a video without sound, what there is is embedded with the other one blank.

    ``files`` (F,) names of the clips used; ``lacks`` (F,) picture or sound, where a clip has none, else ""; ``clip``
    int64 (N,) which of them a window is of; ``times`` float32 (N, 2) its start and end in seconds; ``image_tokens``
    float32 (N, Ni, D) and ``audio_tokens`` (N, Na, D) in row-major order of their grids, ``fusion_tokens`` (N, T, D),
    all after the final norms; ``image``, ``audio`` and ``fusion`` (N, D) their means.

    A clip that cannot be used is told to ``failed`` and left out, or raised where that is None; where none can be used,
    MediaError and no file. The weights are loaded once the first clip is found to be usable.
    """
    check_output(out, force=force, suffix=".npz", others=(*clips, audio))
    given = Clips(clips, audio, every, failed, alone=True)
    computed = list(given.compute(choose_model(model, device=resolve_device(device)), _tokens))
    if not computed:
        raise MediaError("none of the clips can be used", hint="avtool inspect CLIP says what a clip is")
    arrays: dict[str, Any] = {
        "files": np.array([str(of.clip) for of in computed]),
        "lacks": np.array([of.lacks for of in computed]),
        "clip": np.repeat(np.arange(len(computed)), [len(of.times) for of in computed]),
        "times": np.concatenate([of.times for of in computed]).astype(np.float32),
        **{name: np.concatenate([of.results[name] for of in computed]) for name in computed[0].results},
    }
    write_numpy(out, partial(np.savez, **arrays))
    return arrays


def _tokens(model: nn.Module, image: Tensor, audio: Tensor) -> dict[str, Tensor]:
    """The tokens of windows (W, T, D) by stream, and their means (W, D)."""
    tokens = encoder_of(model)(image, audio)
    return {f"{name}_tokens": value for name, value in tokens._asdict().items()} | pool(tokens)._asdict()
