"""A task over the cores of a CPU: the gradient of the whole batch, samples related across replicas, errors that end."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from avtool.distributed import all_gather_with_grad
from avtool.losses import contrastive_loss
from avtool.replicas import Replicas


class Regression(nn.Module):
    """A mean loss, and a parameter that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.unused = nn.Linear(4, 3), nn.Parameter(torch.zeros(2))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        loss = (self.linear(batch["x"]) - batch["y"]).square().mean()
        return {"loss": loss, "half": loss / 2}


class Contrast(nn.Module):
    """A loss in which every sample meets every other one."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.audio = nn.Linear(4, 5), nn.Linear(3, 5)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        (images, first), (sounds, _) = (
            all_gather_with_grad(self.image(batch["x"])),
            all_gather_with_grad(self.audio(batch["y"])),
        )
        own = slice(first, first + len(batch["x"]))
        return contrastive_loss(
            images[own] @ sounds.t(), sounds[own] @ images.t(), first=first, temperature=0.5
        )


@pytest.mark.parametrize("kind", [Regression, Contrast])
def test_replicas_give_the_gradient_of_the_whole_batch(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    task = kind()
    batch = {"x": torch.randn(12, 4), "y": torch.randn(12, 3)}
    results = []
    for model in (task, Replicas(task, 2), Replicas(task, 3)):
        task.zero_grad()
        for _ in range(2):  # the second adds to the first
            losses = model(batch)
            (losses["loss"] * 0.25).backward()
        assert (
            not any(value.requires_grad for name, value in losses.items() if name != "loss") or model is task
        )
        results.append(
            [*losses.values(), *(p.grad for p in task.parameters() if p is not getattr(task, "unused", 0))]
        )
        assert getattr(task, "unused", torch.zeros(())).grad is None
    for whole, *shared in zip(*results, strict=True):
        for one in shared:
            torch.testing.assert_close(one, whole)


def test_the_same_bits_every_time() -> None:
    torch.manual_seed(0)
    task = Contrast()
    batch = {"x": torch.randn(30, 4), "y": torch.randn(30, 3)}
    model, found = Replicas(task, 3), []
    for _ in range(20):
        task.zero_grad()
        model(batch)["loss"].backward()
        found.append(torch.cat([p.grad.flatten() for p in task.parameters()]))
    assert all(torch.equal(one, found[0]) for one in found)


def test_autocast_reaches_the_replicas_and_threads_are_given_back() -> None:
    seen = []

    class Noting(Regression):
        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            seen.append((self.linear(batch["x"]).dtype, torch.get_num_threads()))
            return super().forward(batch)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            Replicas(Noting(), 2)({"x": torch.randn(4, 4), "y": torch.randn(4, 3)})["loss"].backward()
        assert seen == [(torch.bfloat16, 1)] * 2 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_an_error_in_one_replica_ends_all_and_is_the_one_that_is_raised() -> None:
    class Failing(Contrast):
        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            if (batch["x"] > 9).any():
                raise ValueError("too large")
            return super().forward(batch)

    batch = {"x": torch.zeros(6, 4), "y": torch.zeros(6, 3)}
    batch["x"][5] = 10
    model = Replicas(Failing(), 3)
    with pytest.raises(ValueError, match="too large"):
        model(batch)
    batch["x"][5] = 0
    model(batch)["loss"].backward()
    assert threading.active_count() < 20
