"""Frames of several photographs, of which one sounds: a manifest that tests pointing where photographs have no boxes.

    python docs/mosaics.py MANIFEST OUT [--split test] [--count 200] [--seed 0] [--side 64] [--repeat]

MANIFEST (id, split, label, image, audio) is that of photographs with sounds, of as many classes as a square has places
(4, 9, 16). Each mosaic shows one photograph of every class, in places drawn at random, and has the sound of one of the
classes, which take turns; photographs and sounds are drawn by themselves. OUT gets the pictures and a manifest.csv
with the boxes of what sounds and all that is in view, for ``avtool prepare manifest``. With --repeat the other
photographs are of classes drawn at random: to train on, for where every frame shows all classes, no sound is unlike it.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from pathlib import Path

import cv2
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=64, help="pixels of each photograph")
    parser.add_argument("--repeat", action="store_true", help="classes may be in view more than once, or not")
    given = parser.parse_args()
    with given.manifest.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == given.split]
    kinds = sorted({row["label"] for row in rows})
    of_kind = {kind: [row for row in rows if row["label"] == kind] for kind in kinds}
    across = math.isqrt(len(kinds))
    if not kinds or across**2 != len(kinds):
        parser.error(f"{given.manifest} has {len(kinds)} classes in split {given.split}, not 4, 9 or 16")
    (given.out / "images").mkdir(parents=True, exist_ok=True)
    raw, rng, side = given.manifest.resolve().parent, np.random.default_rng(given.seed), given.side
    with (given.out / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "label", "image", "audio", "boxes", "view"])
        for number in range(given.count):
            sounding, view = kinds[number % len(kinds)], []
            picture = np.zeros((across * side, across * side, 3), np.uint8)
            shown = [sounding, *rng.choice(kinds, len(kinds) - 1)] if given.repeat else kinds
            for kind, place in zip(shown, rng.permutation(len(kinds)).tolist(), strict=True):
                y, x = divmod(place, across)
                photograph = cv2.imread(str(raw / rng.choice(of_kind[kind])["image"]))
                scaled = cv2.resize(photograph, (side, side), interpolation=cv2.INTER_CUBIC)
                picture[y * side : (y + 1) * side, x * side : (x + 1) * side] = scaled
                box = [x / across, y / across, (x + 1) / across, (y + 1) / across]
                view.append({"kind": str(kind), "box": box, "sounding": kind == sounding})
            name = f"images/{number:05d}.png"
            cv2.imwrite(str(given.out / name), picture)
            boxes = [thing["box"] for thing in view if thing["sounding"]]
            sound = raw / rng.choice(of_kind[sounding])["audio"]
            cells = [f"mosaic-{number:05d}", given.split, sounding, name, str(sound)]
            writer.writerow([*cells, json.dumps(boxes), json.dumps(view)])


if __name__ == "__main__":
    main()
