"""Optimizers of our own, each against a second implementation in numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avtool.optim import LARS, MATRICES, Muon, bytes_of_moments, orthogonal, parameter_groups


def test_lars_is_a_naive_second_implementation() -> None:
    generator = np.random.default_rng(0)
    start = {
        "matrix": generator.normal(size=(5, 4)),
        "zero": np.zeros((3, 2)),
        "bias": generator.normal(size=5),
    }
    weights = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    group = {"params": list(weights.values()), "weight_decay": 0.1, "pretrained": False, "scale": 1.0}
    optimizer = LARS([group])
    naive, speed = {k: v.copy() for k, v in start.items()}, {k: np.zeros_like(v) for k, v in start.items()}
    for step in range(4):
        rate = 0.5 / (step + 1)
        optimizer.param_groups[0]["lr"] = rate
        for name, weight in weights.items():
            gradient = generator.normal(size=weight.shape)
            weight.grad = torch.tensor(gradient)
            if weight.ndim == 2:
                gradient = gradient + 0.1 * naive[name]
                norms = np.sqrt((naive[name] ** 2).sum()), np.sqrt((gradient**2).sum())
                if all(norms):
                    gradient = gradient * 0.001 * norms[0] / norms[1]
            speed[name] = 0.9 * speed[name] + gradient
            naive[name] = naive[name] - rate * speed[name]
        optimizer.step()
        for name, weight in weights.items():
            np.testing.assert_allclose(weight.detach().numpy(), naive[name], rtol=1e-12)


class Block(nn.Module):
    """Parameters with the names of a transformer block's and a U-Net's, in float64."""

    SHAPES = (("qkv", (12, 4)), ("kv", (8, 4)), ("fc1", (16, 4)), ("fc2", (4, 16)))

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Module()])
        for name, shape in self.SHAPES:
            self.blocks[0].add_module(name, nn.Linear(*reversed(shape), dtype=torch.float64))
        self.head = nn.Linear(4, 3, dtype=torch.float64)
        decoder = {"top": nn.Conv2d(2, 6, 3), "predict": nn.Conv2d(2, 6, 3)}
        self.separation_decoder = nn.ModuleDict(decoder).double()


def nearly_orthogonal(matrix: np.ndarray) -> np.ndarray:
    """The polynomial of Jordan, four times over the singular values, whose vectors stay as they are."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / (values**4).sum() ** 0.25
    for _ in range(4):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    return left * values @ right


def test_muon_is_a_naive_second_implementation_and_adamw_for_all_else() -> None:
    torch.manual_seed(0)
    block, plain = Block(), Block()
    plain.load_state_dict(block.state_dict())
    groups = parameter_groups(block, weight_decay=0.1, muon=True)
    muon = Muon(groups, betas=(0.9, 0.95), precision=torch.float64)
    adamw = torch.optim.AdamW(
        parameter_groups(plain, weight_decay=0.1), lr=0.0, betas=(0.9, 0.95), fused=True
    )
    matrices = {
        f"blocks.0.{name}.weight": count for name, count in zip(dict(Block.SHAPES), (3, 2, 1, 1), strict=True)
    }
    matrices["separation_decoder.top.weight"] = 1
    assert {len(group["params"]) for group in groups if group[MATRICES] == 1} == {3}
    naive = {name: block.get_parameter(name).detach().numpy().copy() for name in matrices}
    speed = {name: np.zeros_like(value) for name, value in naive.items()}
    generator = np.random.default_rng(0)
    for step in range(4):
        rate = 0.1 / (step + 1)
        for optimizer in (muon, adamw):
            for group in optimizer.param_groups:
                group["lr"] = rate
        for name, weight in block.named_parameters():
            gradient = generator.normal(size=weight.shape)
            weight.grad = torch.tensor(gradient)
            plain.get_parameter(name).grad = torch.tensor(gradient)
            if name in matrices:
                speed[name] = 0.95 * speed[name] + 0.05 * gradient
                whole = (0.05 * gradient + 0.95 * speed[name]).reshape(len(gradient), -1)
                parts = np.split(whole, matrices[name])
                side = max(parts[0].shape)
                move = np.concatenate([nearly_orthogonal(part) for part in parts]).reshape(gradient.shape)
                naive[name] = naive[name] * (1 - 0.1 * rate) - rate * 0.2 * side**0.5 * move
        muon.step()
        adamw.step()
    for name, weight in block.named_parameters():
        wanted = naive[name] if name in matrices else plain.get_parameter(name).detach().numpy()
        np.testing.assert_allclose(weight.detach().numpy(), wanted, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("shape", [(2, 40, 24), (2, 24, 40), (1, 32, 32)])
def test_a_move_of_muon_is_next_to_orthogonal(shape: tuple[int, ...]) -> None:
    values: Tensor = torch.linalg.svdvals(
        orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    )
    assert values.max() < 1.25
    assert values.median() > 0.65
    assert (orthogonal(torch.zeros(shape)) == 0).all()


def test_a_step_of_muon_that_is_skipped_leaves_no_trace() -> None:
    torch.manual_seed(0)
    block = Block()
    muon = Muon(
        parameter_groups(block, weight_decay=0.1, muon=True), betas=(0.9, 0.95), precision=torch.float64
    )

    def step(gradient: float, found: float) -> list[Tensor]:
        muon.found_inf = torch.tensor(found)
        for group in muon.param_groups:
            group["lr"] = 0.1
        for weight in block.parameters():
            weight.grad = torch.full_like(weight, gradient)
        muon.step()
        moments = (state[name] for state in muon.state.values() for name in sorted(state))
        return [value.clone() for value in (*block.parameters(), *moments)]

    step(1.0, 0.0)
    before, skipped, after = step(0.5, 0.0), step(float("nan"), 1.0), step(0.5, 0.0)
    assert all(map(torch.equal, before, skipped))
    assert not any(map(torch.equal, skipped[: len(list(block.parameters()))], after))


def test_a_matrix_has_one_moment_with_muon_and_all_else_two() -> None:
    block = Block()
    optimizer = Muon(
        parameter_groups(block, weight_decay=0.1, muon=True), betas=(0.9, 0.95), precision=torch.float32
    )
    for weight in block.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = sum(
        value.nbytes for state in optimizer.state.values() for name, value in state.items() if name != "step"
    )
    assert kept == bytes_of_moments(optimizer.param_groups, "muon")
    every = sum(weight.nbytes for weight in block.parameters())
    plain = parameter_groups(block, weight_decay=0.1)
    assert [bytes_of_moments(plain, name) for name in ("lars", "adamw")] == [every, 2 * every]
