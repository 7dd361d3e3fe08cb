"""What tests of pages share: outputs of every task on a clip, and what must hold of a page whoever reads it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import soundfile

from tests import clips

NAME = "a <b>&\"'.mp4"
"""A clip whose name is markup."""
CLASS = "</script><img src=x>"
SECONDS, TONES = 2.0, {"guided": (440.0, 1.5), "rest": (880.0, 0.75)}
"""Of the clip; frequency and level of its sources."""
VOID = ("meta", "img", "input", "br")


def found_in(folder: Path, seconds: float = SECONDS) -> Path:
    """A folder with what localize, segment, separate and classify write of a clip of ``seconds``: the map is hot on the
    left at first and on the right at the end, the mask covers the upper half."""
    found = folder / "found"
    found.mkdir(parents=True)
    clip = clips.clip(folder / NAME, seconds, size=(90, 120), fps=10)
    named = {"clip": str(clip), "sound": str(clip), "model": str(folder / "model")}
    times = np.arange(0, seconds, 0.5)
    own = np.zeros((len(times), 2, 2), np.float32)
    own[: len(times) // 2, :, 0] = own[len(times) // 2 :, :, 1] = 1
    maps = {"own sound": own, "silence": own * 0.25, "white noise": own[..., ::-1]}
    said = {"map": "attention", "warning": "Not above its controls."}
    np.savez(found / "maps.npz", times=times, **maps, **said, **named)
    masks = np.zeros((len(times), 32, 32), np.uint8)
    masks[:, :16] = 1
    np.savez(found / "masks.npz", times=times, masks=masks, names=["background", CLASS], **named)
    (found / "sounds").mkdir()
    for name, (frequency, level) in TONES.items():
        sound = clips.tone(seconds, frequency=frequency, level=level)
        soundfile.write(found / "sounds" / f"{name}.wav", sound, clips.RATE, subtype="FLOAT")
    cv2.imwrite(str(found / "sounds" / "masks.png"), np.zeros((8, 8, 3), np.uint8))
    facts = {**named, "with": None, "box": [0, 0, 0.5, 1], "rate": clips.RATE, "sdr": {}}
    (found / "sounds" / "separation.json").write_text(json.dumps(facts))
    windows = [
        {"start": start, "end": start + 1.0, "top": [{"class": name, "probability": 0.75}]}
        for start, name in ((0.0, "first"), (seconds - 1, CLASS))
    ]
    of_clip = {"clip": str(clip), "lacks": None, "top": windows[1]["top"], "windows": windows}
    (found / "classes.json").write_text(json.dumps({"clips": [of_clip], "failed": []}))
    return found


class Page(HTMLParser):
    """A page, taken apart: its ``text`` outside of scripts and styles, and its ``tags`` with their attributes. Tags are
    closed in order, nothing is fetched, and whoever does not see it is told what there is."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content)
        assert self.open == [] and "://" not in content
        ids = [given["id"] for _, given in self.tags if "id" in given]
        assert len(ids) == len(set(ids)), ids
        assert ("html", {"lang": "en"}) in self.tags and len(self.of("h1")) == 1

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [given for name, given in self.tags if name == tag]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        assert (given.get("src") or "data:").startswith("data:") and "href" not in given, given
        assert not {name for name in given if name.startswith("on")}
        if tag in ("img", "th", "input", "svg", "video"):
            named = {
                "img": "alt",
                "th": "scope",
                "input": "aria-label",
                "svg": "aria-label",
                "video": "aria-label",
            }
            in_label = tag == "input" and any(name == "label" for name, _ in self.open)
            assert in_label or given.get(named[tag]), (tag, given.keys())
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):
            self.open.append((tag, given))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "polyline", "circle"):
            assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1][0] not in ("script", "style"):
            self.text += data
