#!/usr/bin/env bash
# A display orientation message of H.264 that holds for a whole clip reaches only the key frames of it.
#
# The message's repetition_period of 1 says that it holds until the next coded video sequence (H.264, D.2.27). FFmpeg
# 8.1 (PyAV 18.1.0) puts a display matrix only on the frames that have the message themselves: of eight frames of one
# group, one is turned (seen 2026-11-29). A container's matrix, in contrast, is on every frame.
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
from av.bitstream import BitStreamFilterContext

with av.open("plain.mp4", "w") as out:
    stream = out.add_stream("libx264", rate=5)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for _ in range(8):
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
    out.mux(stream.encode(None))
with av.open("plain.mp4") as read, av.open("turned.mp4", "w") as out:
    video = read.streams.video[0]
    stream = out.add_stream_from_template(video)
    change = BitStreamFilterContext("h264_metadata=display_orientation=insert:rotate=90", video, stream)
    for packet in read.demux(video):
        for one in change.filter(packet if packet.size else None):
            one.stream = stream
            out.mux(one)
with av.open("turned.mp4") as read:
    rotations = [frame.rotation for frame in read.decode(video=0)]
print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}: rotations {rotations}")
sys.exit(rotations != [90] + 7 * [0])
EOF
venv/bin/python read.py
