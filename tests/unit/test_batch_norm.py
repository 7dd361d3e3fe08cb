"""BatchNorm in training with several processes."""

from __future__ import annotations

import torch
from torch import nn

from avtool.distributed import World, share_batch_norm


def heads() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.BatchNorm1d(4, affine=False, eps=1e-6), nn.Linear(4, 2)), nn.BatchNorm2d(3)
    )


def kinds(module: nn.Module) -> set[type]:
    return {type(part) for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)}


def test_on_gpus_statistics_are_those_of_all_processes() -> None:
    module, before = heads(), heads().state_dict()
    share_batch_norm(module, World(rank=0, size=2), torch.device("cuda"))
    assert kinds(module) == {nn.SyncBatchNorm}
    assert {name: value.shape for name, value in module.state_dict().items()} == {
        name: value.shape for name, value in before.items()
    }
    assert (module[0][0].affine, module[0][0].eps, module[1].affine) == (False, 1e-6, True)


def test_elsewhere_batch_norm_stays_as_it_is() -> None:
    for world, device in ((World(rank=1, size=2), "cpu"), (World(), "cuda")):
        module = heads()
        share_batch_norm(module, world, torch.device(device))
        assert kinds(module) == {nn.BatchNorm1d, nn.BatchNorm2d}
