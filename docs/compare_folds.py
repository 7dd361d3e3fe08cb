"""Does each input help, and does pretraining? Folds by recording over every clip of a data set, paired.

    python docs/compare_folds.py DATA OUT [--folds 5] [--seed 0] [--pretrain-steps 600] [--steps 406]

For every fold a tiny model is pretrained on the other folds, then fine-tuned to classify from those weights and from
random ones, and evaluated on the fold alone. All folds' predictions together are one for each clip of DATA; differences
are between rows on the same clips, with intervals that resample recordings. 406 steps of 64 clips are 26,000 training
samples a fold. What is there already is not done again, so it can be stopped and started.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from compare_fusion import avtool

from avtool.data import parts
from avtool.data.dataset import PreparedDataset
from avtool.metrics.bootstrap import Interval, bootstrap_difference, bootstrap_mean
from avtool.metrics.classification import top_k_correct

ROWS = ("fused", "fused, image blank", "fused, sound silent")
STARTS = {"pretrained": (), "scratch": ("--from", "none", "--allow-random")}


def predictions(
    data: Path, out: Path, *, fold: str, start: str, seed: int, pretrain_steps: int, steps: int
) -> dict[str, np.ndarray]:
    """What the model that was fine-tuned without ``fold`` says of its clips, trained where it is not there yet."""
    k, n = fold.split("/")
    common = ("--data", str(data), "--seed", str(seed), "data.split=all", f"data.fold=[{k},{n}]")
    pretrained, run = out / f"{seed}-{k}of{n}", out / f"{seed}-{k}of{n}-{start}"
    found = run.with_suffix(".npz")
    if not found.exists():
        begin = STARTS[start]
        if start == "pretrained":
            arguments = ("--recipe", "tiny", "--out", str(pretrained), f"max_steps={pretrain_steps}")
            avtool("pretrain", *arguments, "--resume", *common)
            begin = ("--from", str(pretrained))
        arguments = ("--recipe", "tiny-classify", *begin, "--out", str(run), f"max_steps={steps}")
        avtool("finetune", "classify", *arguments, "--resume", *common)
        judged = ("--split", "all", "--fold", fold, "--protocol", "top1", "--save-predictions", str(found))
        avtool("evaluate", str(run), "--data", str(data), *judged)
    return dict(np.load(found))


def told(name: str, found: Interval) -> str:
    low, high = 100 * found.low, 100 * found.high
    return f"{name:<52}{100 * found.value:7.1f} % [{low:.1f}, {high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pretrain-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=406)
    given = parser.parse_args()
    dataset = PreparedDataset(given.data, "all")
    labels = np.array([dataset.label_id(i) for i in range(len(dataset))])
    recordings = np.array(parts.recordings(dataset))
    hits = {(start, row): np.full(len(dataset), np.nan) for start in STARTS for row in ROWS}
    for k in range(1, given.folds + 1):
        for start in STARTS:
            steps = {"pretrain_steps": given.pretrain_steps, "steps": given.steps}
            found = predictions(
                given.data, given.out, fold=f"{k}/{given.folds}", start=start, seed=given.seed, **steps
            )
            clips = found["clips"]
            for row in ROWS:
                hits[start, row][clips] = top_k_correct(found[f"logits_{row}"], labels[clips], 1)
    print(f"top1 on {given.folds} folds by recording, n = {len(dataset)}, 95 % intervals over recordings")
    for (start, row), values in hits.items():
        print(told(f"{start}, {row}", bootstrap_mean(values, groups=recordings)))
    fused = hits["pretrained", "fused"]
    for name, other in (
        ("fused over image blank", hits["pretrained", "fused, image blank"]),
        ("fused over sound silent", hits["pretrained", "fused, sound silent"]),
        ("pretrained over scratch", hits["scratch", "fused"]),
    ):
        print(told(f"{name} (points, paired)", bootstrap_difference(fused, other, groups=recordings)))
    commonest = (labels == np.bincount(labels).argmax()).astype(float)
    print(told("floor: always the commonest class", bootstrap_mean(commonest, groups=recordings)))


if __name__ == "__main__":
    main()
