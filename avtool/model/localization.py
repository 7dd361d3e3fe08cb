"""Localization of what sounds: every patch is scored against a sound, so that their map can be trained by contrast.

Patches of an early-fusion encoder have read their own sound. A contrast between the patches of one clip and the sound
of another is then solved by telling who was encoded with whom. Both ways here keep that from leaking: either each
modality is encoded with the other one blank, or every pair is encoded anew.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avtool.features import blank_frames, silence
from avtool.model.encoder import AudioVisualEncoder
from avtool.model.transformer import grid_of

UNIMODAL = "unimodal"


class LocalizationModel(nn.Module):
    """The encoder and what turns its tokens into a map of a sound.

    ``unimodal``: the cosine of projected patches, encoded with silence, with the projected mean audio token, encoded
    with a blank frame; both projections have ``width``. Patches of what is blank are alike but for their places, so
    that ``blank_share`` of them, evenly spaced, can stand for all. ``joint``: a linear score of each patch, encoded
    with the sound.

    A map, not the loss, is of the frame enlarged by ``map_scale``: crops of training show things larger than a whole
    frame does (FixRes, arXiv 1906.06423). It is the mean over ``map_shifts`` places of the grid of patches in either
    direction, which share the side of a patch evenly. ValueError where they do not divide it.
    """

    def __init__(
        self,
        encoder: AudioVisualEncoder,
        *,
        encoding: str,
        width: int,
        blank_share: float = 1.0,
        map_scale: float = 1.0,
        map_shifts: int = 1,
    ) -> None:
        super().__init__()
        if encoder.patch_size % map_shifts:
            raise ValueError(
                f"map_shifts is {map_shifts}, which does not divide patches of {encoder.patch_size}"
            )
        self.encoder, self.encoding, self.blank_share = encoder, encoding, blank_share
        self.map_scale, self.map_shifts = map_scale, map_shifts
        if encoding == UNIMODAL:
            self.image_projection = nn.Linear(encoder.dim, width)
            self.audio_projection = nn.Linear(encoder.dim, width)
        else:
            self.cell_score = nn.Linear(encoder.dim, 1)

    def reset_head(self) -> None:
        """Starting weights of everything but the encoder."""
        for name, part in self.named_children():
            if name != "encoder" and isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """``image`` (B, 3, H, W) and ``audio`` (B, 1, mel, frames) as the encoder takes them -> maps (B, rows, columns)
        over the frame, higher where the sound is located: ``map_shifts`` cells each way for a patch once enlarged."""
        patch, shifts = self.encoder.patch_size, self.map_shifts
        rows, columns = (max(1, round(side * self.map_scale / patch)) for side in image.shape[2:])
        if self.map_scale != 1:
            image = F.interpolate(
                image, (rows * patch, columns * patch), mode="bilinear", align_corners=False
            )
        total, sound = image.new_zeros(()), None
        for top, left in product(range(shifts), repeat=2):
            edges = [
                side
                for moved in (left, top)
                for side in (moved * patch // shifts, -moved * patch // shifts % patch)
            ]
            moved = F.pad(image, edges, mode="replicate")
            if self.encoding == UNIMODAL:
                patches = self.patches(moved, audio)
                sound = self.sounds(image, audio).unsqueeze(2) if sound is None else sound
                cells = (patches @ sound).squeeze(2)
            else:
                cells = self.pair_cells(moved, audio)
            maps = cells.unflatten(1, grid_of(moved.shape[2], moved.shape[3], patch))
            if shifts > 1:
                fine = [shifts * side for side in maps.shape[1:]]
                maps = F.interpolate(maps.unsqueeze(1), fine, mode="bilinear", align_corners=False).squeeze(1)
                maps = maps[:, top : top + shifts * rows, left : left + shifts * columns]
            total = total + maps
        return total / shifts**2

    def pair_cells(
        self, image: Tensor, audio: Tensor, image_keep: Tensor | None = None, audio_keep: Tensor | None = None
    ) -> Tensor:
        """Joint: scores (B, N) of the patches, or (B, K) of those in ``image_keep``, encoded with the sound."""
        tokens = self.encoder(image, audio, image_keep=image_keep, audio_keep=audio_keep).image
        return self.cell_score(tokens).squeeze(2)

    def patches(self, image: Tensor, audio: Tensor, keep: Tensor | None = None) -> Tensor:
        """Unimodal: unit vectors (B, N, width) of the patches, or (B, K, width) of those in ``keep``, seen with silence
        in place of ``audio``."""
        blank = self._standing_for_all(audio)
        tokens = self.encoder(image, silence(audio), image_keep=keep, audio_keep=blank).image
        return F.normalize(self.image_projection(tokens), dim=-1)

    def sounds(self, image: Tensor, audio: Tensor, keep: Tensor | None = None) -> Tensor:
        """Unimodal: unit vectors (B, width) of the sounds, or of their patches ``keep`` (B, K), heard with a blank
        frame in place of ``image``."""
        blank = self._standing_for_all(image)
        tokens = self.encoder(blank_frames(image), audio, image_keep=blank, audio_keep=keep).audio
        return F.normalize(self.audio_projection(tokens.mean(dim=1)), dim=-1)

    def _standing_for_all(self, blank: Tensor) -> Tensor | None:
        """Which patches (B, K) of ``blank`` (B, C, H, W) are encoded: the middle one of each of K equal stretches."""
        if self.blank_share == 1:
            return None
        rows, columns = grid_of(blank.shape[2], blank.shape[3], self.encoder.patch_size)
        count = rows * columns
        kept = max(1, round(self.blank_share * count))
        middles = (2 * torch.arange(kept, device=blank.device) + 1) * count // (2 * kept)
        return middles.expand(blank.shape[0], -1)
