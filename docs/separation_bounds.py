"""What bounds a separator on rendered clips: the picture that cannot tell, or the mask?

    python docs/separation_bounds.py MODEL DATA [--split test] [--seed 0]

The mixtures of protocol bss-eval in groups: neither picture shows a thing of the kind that the other clip sounds of;
one or both do, silent there, so that by sight alone nothing tells whose sound is asked for. For each group the SDR over
the mixture's, in dB: of the model; with the two pictures exchanged; of the better of these two orders for each mixture,
an oracle that knows which mask is whose (what it is above the model is the guide's fault, what it is below the ideal
masks is the mask's); and how often the model's own order is the better one (chance 50 %).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from compare_fusion import avtool

from avtool.data.dataset import PreparedDataset
from avtool.metrics.bootstrap import bootstrap_mean

ALL, TOLD, NOT_TOLD = "all", "the other's kind in neither picture", "in one picture or both"
MODEL, EXCHANGED, BETTER = "model", "pictures exchanged", "the better order"
ROWS = (MODEL, EXCHANGED, BETTER, "ideal ratio mask")


def in_view(dataset: PreparedDataset, clip: int) -> set[str]:
    """The kinds of the things that the frame of ``clip`` shows, silent or not."""
    return {thing["kind"] for thing in dataset.facts(clip)["view"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--seed", default="0")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "predictions.npz"
        common = ("--data", str(wanted.data), "--split", wanted.split, "--seed", wanted.seed)
        avtool("evaluate", wanted.model, *common, "--save-predictions", str(kept))
        with np.load(kept) as found:
            mixtures = found["mixtures"]
            floor = found["SDR_the mixture itself"].reshape(mixtures.shape)
            gains = {
                row: found[f"SDR_{row}"].reshape(mixtures.shape) - floor for row in ROWS if row != BETTER
            }
    dataset = PreparedDataset(wanted.data, wanted.split)
    heard = [set(dataset.record(int(clip)).labels) for clip in mixtures.ravel()]
    seen = [in_view(dataset, int(clip)) for clip in mixtures.ravel()]
    told = np.array([not (seen[i] & heard[i + 1] or seen[i + 1] & heard[i]) for i in range(0, len(heard), 2)])
    of_mixture = {row: values.mean(axis=1) for row, values in gains.items()}
    own, exchanged = of_mixture[MODEL], of_mixture[EXCHANGED]
    of_mixture[BETTER] = np.maximum(own, exchanged)
    finite = np.isfinite(np.stack([*of_mixture.values()])).all(axis=0)
    print(f"| SDR over the mixture, dB | n | {' | '.join(ROWS)} | own order is better, % |")
    print("|---" * (len(ROWS) + 3) + "|")
    for name, group in ((ALL, finite), (TOLD, finite & told), (NOT_TOLD, finite & ~told)):
        columns = [of_mixture[row][group] for row in ROWS] + [100.0 * (own > exchanged)[group]]
        print(f"| {name} | {group.sum()} | {' | '.join(map(in_words, columns))} |")


def in_words(values: np.ndarray) -> str:
    """Their mean and its 95 % interval."""
    found = bootstrap_mean(values)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


if __name__ == "__main__":
    main()
