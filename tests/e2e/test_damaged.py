"""Damaged clips through preparation: none is lost, what can be decoded is prepared and what cannot is refused."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import pytest

from avtool.data.prepare import prepare
from tests import clips
from tests.damage import decode_plainly, write_damaged

CLIPS = tuple(enumerate(["mp4", "mkv"] * 2))


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.proof)])
def test_damaged_clips_are_prepared_or_refused_each_for_a_reason(tmp_path: Path, count: int) -> None:
    whole = [clips.clip(tmp_path / f"whole{seed}.{kind}", 3.0, seed=seed) for seed, kind in CLIPS]
    if count > 50 and clips.TEST_DATA.is_dir():  # real ones too, the smaller ones
        found = sorted(
            (clips.TEST_DATA / "vggsound_mini").rglob("*.mp4"), key=lambda path: path.stat().st_size
        )
        whole += found[:5]
    (tmp_path / "clips").mkdir()
    damaged = write_damaged(whole, tmp_path / "clips", count=count)
    lines = ["id,split,label,video", *(f"{path.stem},train,a,clips/{path.name}" for path in damaged)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    began = time.monotonic()
    report = prepare("manifest", tmp_path / "table.csv", out=tmp_path / "out")
    assert (report.prepared + report.refused, report.missing) == (count, 0)
    assert time.monotonic() - began < 30 * count  # no clip hangs
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2e6  # kilobytes, of the largest worker
    refused = json.loads((tmp_path / "out" / "report.json").read_text())["details"]
    before = {clip: decode_plainly(clip) for clip in whole}
    wrong, kinds = [], {"usable": 0, "dead": 0}
    for path, clip in damaged.items():
        now, then = decode_plainly(path), before[clip]
        usable = now.frames >= 0.95 * then.frames and now.samples >= 0.95 * then.samples
        dead = not now.frames or not now.samples
        kinds["usable"] += usable
        kinds["dead"] += dead
        if (usable and path.stem in refused) or (dead and path.stem not in refused):
            wrong.append((path.stem, now, then, refused.get(path.stem)))
    assert wrong == []
    assert min(kinds.values()) > count / 10  # both verdicts were put to the test
