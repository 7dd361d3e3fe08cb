"""Does it matter that dense fusion's softmax over pairs splits into two? A task in which only pairs tell.

    python docs/pairwise.py OUT [--steps 800] [--seeds 0,1,2] [--kinds token,dense,factorized,bilinear]

A rendered frame shows two objects and its sound has two tones. Looks (colours) and pitches belong together by a
relation drawn from the seed. A clip is right if one of its tones belongs to one of its objects, and wrong if none does.
Looks and pitches are equally frequent in both, alone and by twos, so neither frame nor sound says anything alone:
chance is 50 %, the ceiling 100. Tones, shapes, places, sizes, rhythm and noise vary, and no clip is seen twice.

For every seed and kind of fusion an encoder of two layers, with fusion blocks in both or in the last alone, learns to
tell right from wrong from its fusion tokens; everything else is the same. What is there already is not done again, so
it can be stopped and started. Prints the table of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from avtool.features import LogMel
from avtool.model.encoder import AudioVisualEncoder
from avtool.optim import cosine_schedule

KINDS = ("token", "dense", "factorized", "bilinear")
LAYERS = {"both layers": "all", "the last layer": [1]}
LOOKS, SIDE, CELL, RATE, SAMPLES = 5, 32, 8, 16000, 4000
BATCH, TEST, EVERY, LEARNING_RATE = 32, 512, 25, 2e-3
MODEL = {
    "image_size": (SIDE, SIDE), "audio_size": (32, 16), "patch_size": 8, "dim": 48, "depth": 2, "heads": 4,
    "fusion_tokens": (8, 4, 4), "fusion_attn_ratio": 1.0, "fusion_mlp_ratio": 4.0,
}  # fmt: skip
COLOURS = torch.tensor([[1.0, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.3, 1.0], [0.9, 0.8, 0.1], [0.7, 0.2, 0.8]])
PITCHES = 200 * 2.0 ** torch.arange(LOOKS)
log_mel = LogMel(n_fft=400, hop=250, mels=32)


def clips(count: int, related: Tensor, seed: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (B, 3, SIDE, SIDE), log-mels (B, 1, 32, 16) and whether they are right (B,), half of them."""
    order = torch.rand(count, LOOKS, generator=seed).argsort(dim=1)
    looks, right = order[:, :2], torch.arange(count) % 2
    heard = torch.where(right[:, None] == 1, order[:, [0, 2]], order[:, [2, 3]])
    return frames(looks, seed), sounds(related[heard], seed), right


def frames(looks: Tensor, seed: torch.Generator) -> Tensor:
    """Discs and squares of the looks' colours (B, 2), shaded anew, in two places of a noisy grey frame."""
    count, cells = len(looks), SIDE // CELL
    frame = (
        torch.rand(count, 1, 1, 1, generator=seed) * 0.6
        + torch.rand(count, 3, SIDE, SIDE, generator=seed) * 0.3
    )
    places = torch.rand(count, cells**2, generator=seed).argsort(dim=1)[:, :2]
    axis = torch.arange(SIDE) + 0.5
    for k in range(2):
        drawn = torch.rand(count, 5, generator=seed)
        y = (places[:, k] // cells + 0.35 + 0.3 * drawn[:, 0]) * CELL
        x = (places[:, k] % cells + 0.35 + 0.3 * drawn[:, 1]) * CELL
        away = (axis[None, :, None] - y[:, None, None]).abs(), (axis[None, None] - x[:, None, None]).abs()
        disc, square = torch.hypot(*away), torch.maximum(*away)
        far = torch.where(drawn[:, 2, None, None] < 0.5, disc, square)
        inside = (far < 2.5 + 1.5 * drawn[:, 3, None, None])[:, None]
        colour = COLOURS[looks[:, k]] * (0.6 + 0.4 * drawn[:, 4:])
        frame = torch.where(inside, colour[:, :, None, None], frame)
    return (frame - 0.5) / 0.25


def sounds(pitches: Tensor, seed: torch.Generator) -> Tensor:
    """Log-mels of two tones (B, 2) at once, a little out of tune, which swell and fade, in noise."""
    drawn = torch.rand(*pitches.shape, 4, generator=seed)
    frequency = PITCHES[pitches] * (0.95 + 0.1 * drawn[..., 0])
    moment = torch.arange(SAMPLES) / RATE
    swell = 1 + 0.8 * torch.sin(2 * torch.pi * ((4 + 12 * drawn[..., 1:2]) * moment + drawn[..., 2:3]))
    tones = torch.sin(2 * torch.pi * frequency[..., None] * moment) * swell * (0.05 + 0.1 * drawn[..., 3:])
    return log_mel(tones.sum(dim=1) + 0.01 * torch.randn(len(pitches), SAMPLES, generator=seed)) / 2


class Judge(nn.Module):
    """Right or wrong, from the mean fusion token."""

    def __init__(self, kind: str, layers: str | list[int]) -> None:
        super().__init__()
        self.encoder = AudioVisualEncoder(**MODEL, fusion=kind, fusion_layers=layers)
        self.encoder.reset_parameters()
        self.head = nn.Linear(MODEL["dim"], 2)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        return self.head(self.encoder(image, audio).fusion.mean(dim=1))


def learned(kind: str, layers: str | list[int], *, number: int, steps: int) -> dict[str, float | list[float]]:
    """Accuracies in % after every EVERY steps and with either modality exchanged, parameters and seconds."""
    torch.manual_seed(number)
    related = torch.randperm(LOOKS)
    judge, seed = Judge(kind, layers), torch.Generator().manual_seed(1000 + number)
    image, audio, right = clips(TEST, related, torch.Generator().manual_seed(number))
    optimizer = torch.optim.AdamW(judge.parameters(), betas=(0.9, 0.95), weight_decay=0.05)

    @torch.no_grad()
    def accuracy(frame: Tensor, sound: Tensor) -> float:
        return 100 * (judge(frame, sound).argmax(dim=1) == right).float().mean().item()

    began, curve = time.process_time(), []
    for step in range(steps):
        rate = LEARNING_RATE * cosine_schedule(step, max_steps=steps, warmup_steps=steps // 10)
        for group in optimizer.param_groups:
            group["lr"] = rate
        *shown, told = clips(BATCH, related, seed)
        nn.functional.cross_entropy(judge(*shown), told).backward()
        nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % EVERY == 0:
            curve.append(accuracy(image, audio))
    others = torch.randperm(TEST, generator=seed)
    return {
        "curve": curve,
        "frame exchanged": accuracy(image[others], audio),
        "sound exchanged": accuracy(image, audio[others]),
        "parameters": sum(parameter.numel() for parameter in judge.parameters()),
        "seconds": time.process_time() - began,
    }


def mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def steps_to(curve: list[float], wanted: float = 90) -> str:
    return next((f"{EVERY * (k + 1):,}" for k, value in enumerate(curve) if value >= wanted), "never")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--kinds", default=",".join(KINDS))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    titles = (
        "fusion in",
        "kind",
        "accuracy, %",
        "steps to 90 %, by seed",
        "frame exchanged",
        "sound exchanged",
    )
    rows = [(*titles, "parameters", "core-seconds")]
    for where, layers in LAYERS.items():
        for kind in given.kinds.split(","):
            found = []
            for number in map(int, given.seeds.split(",")):
                file = given.out / f"{kind}-{where.replace(' ', '-')}-{number}-{given.steps}.json"
                if not file.exists():
                    result = learned(kind, layers, number=number, steps=given.steps)
                    file.write_text(json.dumps(result))
                    print(file.name, result["curve"][-1], round(result["seconds"]), file=sys.stderr)
                found.append(json.loads(file.read_text()))
            each = [mean([run[name] for run in found]) for name in ("frame exchanged", "sound exchanged")]
            reached = ", ".join(steps_to(run["curve"]) for run in found)
            cost = f"{found[0]['parameters']:,}", f"{statistics.mean(run['seconds'] for run in found):.0f}"
            rows.append((where, kind, mean([run["curve"][-1] for run in found]), reached, *each, *cost))
    for row in (rows[0], ["---"] * len(titles) + ["---", "---"], *rows[1:]):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
