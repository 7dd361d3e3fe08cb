#!/usr/bin/env bash
# Fragmented mp4 with one packet in each fragment, as live recorders write it: FFmpeg reads back half of the sound.
#
# Written with movflags frag_every_frame+empty_moov and decoded again by FFmpeg 8.1.2 (PyAV 18.1.0), 87 of 189 blocks of
# AAC are missing and nothing is said: the packets are all there, but the reader marks those to be discarded, and the
# decoder drops them. With a fragment for each key frame instead none is marked (seen 2026-11-29).
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy

cat >read.py <<'EOF'
import sys

import av
import numpy as np

tone = np.sin(np.arange(192_000) / 20).astype(np.float32)
found = {}
for fragments in ("frag_every_frame", "frag_keyframe"):
    with av.open("clip.mp4", "w", options={"movflags": f"{fragments}+empty_moov"}) as out:
        pictures = out.add_stream("libx264", rate=25, options={"bf": "0"})
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        sound = out.add_stream("aac", rate=48000, layout="mono")
        for number in range(100):
            out.mux(pictures.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8))))
            block = av.AudioFrame.from_ndarray(tone[None, number * 1920 : (number + 1) * 1920], "fltp", "mono")
            block.sample_rate, block.pts = 48000, number * 1920
            out.mux(sound.encode(block))
        out.mux(pictures.encode(None))
        out.mux(sound.encode(None))
    with av.open("clip.mp4") as read:
        packets = [packet.is_discard for packet in read.demux(audio=0) if packet.size]
    with av.open("clip.mp4") as read:
        blocks = sum(1 for _ in read.decode(audio=0))
    found[fragments] = len(packets), sum(packets), blocks
    print(f"{fragments}: {len(packets)} packets, {sum(packets)} marked, {blocks} blocks decoded")
packets, marked, blocks = found["frag_every_frame"]
sys.exit(not (marked > packets / 4 and blocks == packets - marked and found["frag_keyframe"][1] == 0))
EOF
venv/bin/python read.py
