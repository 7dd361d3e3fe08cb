"""The object prior of localization: what an ImageNet network makes of a frame, whatever sounds.

Source: EZ-VSL (Mo and Morgado, ECCV 2022), object-guided localization. Tables that use it and tables that do not cannot
be compared, so it is only ever an addition, reported beside the maps without it and beside itself alone.
"""

from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from avtool.checkpoint import check_fit
from avtool.errors import CheckpointError
from avtool.features import upsampled
from avtool.libraries import need
from avtool.metrics.localization import EVALUATION_SIZE
from avtool.weight_files import read_state_dict

SHARE = 0.4
"""The map's share of the mixture; the rest is the prior's."""
RESNETS = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
"""torchvision's, by the blocks of their four stages and whether these are bottlenecks."""
GET = "give torchvision's file of an ImageNet ResNet, as resnet18-f37072fd.pth"


class ObjectPrior(nn.Module):
    """The mean absolute feature of a ResNet's last stage, where it is high something is to be seen."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # without the mean over places and the classes
        self.stages = nn.Sequential(*list(network.children())[:-2])

    def forward(self, image: Tensor) -> Tensor:
        """Frames (B, 3, H, W), ImageNet-normalised, seen at 224 x 224 -> maps (B, 7, 7), 0 and up."""
        seen = F.interpolate(image, EVALUATION_SIZE, mode="bilinear", align_corners=False)
        return self.stages(seen).abs().mean(dim=1)


def load_prior(path: Path) -> ObjectPrior:
    """The prior of an ImageNet ResNet (18 to 152) from torchvision's weights file. CheckpointError for another file."""
    models = need("torchvision.models", purpose="--object-prior")
    weights = read_state_dict(path)
    blocks = tuple(
        len({name.split(".")[1] for name in weights if name.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    )
    name = RESNETS.get((blocks, "layer1.0.conv3.weight" in weights))  # type: ignore[arg-type]
    if name is None:
        raise CheckpointError(f"{path} holds no ResNet's weights", hint=GET)
    network = models.get_model(name, weights=None)
    counters = {
        key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")
    }
    weights = counters | weights  # old files have no counters, and nothing here needs them
    check_fit(weights, network, source=path, hint=GET)
    network.load_state_dict(weights)
    return ObjectPrior(network).eval()


def with_prior(maps: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Maps (N, rows, columns) and priors (N, 7, 7), each upsampled to 224 x 224 and scaled to 0 to 1 image by image ->
    their mixture float32 (N, 224, 224), ``SHARE`` of it the map's."""
    return SHARE * _scaled(maps) + (1 - SHARE) * _scaled(prior)


def _scaled(maps: np.ndarray) -> np.ndarray:
    fine = upsampled(maps, EVALUATION_SIZE).astype(np.float32)
    fine = fine - fine.min(axis=(1, 2), keepdims=True)
    return fine / np.maximum(fine.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
