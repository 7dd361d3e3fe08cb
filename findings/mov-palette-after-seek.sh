#!/usr/bin/env bash
# A QuickTime clip with a palette is black after a seek, although every frame of it is a key frame.
#
# The palette lies in the header, and FFmpeg's reader hands it out once, beside the first packet that it reads. Who seeks
# before reading has no palette: the codec gives frames of zeros and no error. PyAV 18.1.0 (FFmpeg 8.1.2) reads 126 (mean
# grey) from the start, 0 after a first seek, and 126 after a seek once a frame was decoded. OpenCV 5.0.0.93, which
# decodes a frame when it opens a clip, reads 126 either way (seen 2026-11-29).
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check av==18.1.0 opencv-python-headless==5.0.0.93 numpy

cat >read.py <<'EOF'
import sys

import av
import cv2
import numpy as np

ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None], 48, axis=0)
with av.open("grey.mov", "w") as out:
    stream = out.add_stream("qtrle", rate=5)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
    stream.gop_size = 1
    for _ in range(20):
        out.mux(stream.encode(av.VideoFrame.from_ndarray(ramp, "gray")))
    out.mux(stream.encode(None))


def grey(container):
    return round(float(next(container.decode(video=0)).to_ndarray(format="gray").mean()))


with av.open("grey.mov") as read:
    keys = [packet.is_keyframe for packet in read.demux(video=0) if packet.size]
with av.open("grey.mov") as read:
    begun = grey(read)
    read.seek(2_000_000)
    later = grey(read)
with av.open("grey.mov") as read:
    read.seek(2_000_000)
    sought = grey(read)
capture = cv2.VideoCapture("grey.mov")
capture.set(cv2.CAP_PROP_POS_FRAMES, 10)
seen = round(float(capture.read()[1].mean()))
print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}, OpenCV {cv2.__version__}: {sum(keys)} key frames of")
print(f"{len(keys)}; from the start {begun}, seek first {sought}, seek later {later}, OpenCV after a seek {seen}")
sys.exit(not all(keys) or (begun, sought, later, seen) != (126, 0, 126, 126))
EOF
venv/bin/python read.py
