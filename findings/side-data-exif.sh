#!/usr/bin/env bash
# PyAV 18.1.0 cannot list the side data of a frame that has EXIF, so its display matrix cannot be read there.
#
# FFmpeg 8 puts an MJPEG frame's EXIF beside it (side data number 31), and its orientation into a display matrix. PyAV
# knows the numbers up to 27: frame.side_data ends with "ValueError: 31 is not a valid Type", the matrix included, and
# frame.rotation says -90 for orientation 5 (mirrored) as for 6 (not). FFmpeg's filter `sidedata` takes numbers that it
# has no name for: `mode=delete:type=31` leaves a frame whose matrix can be read (seen 2026-11-29).
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check av==18.1.0 pillow==12.0.0

cat >read.py <<'EOF'
import io
import struct
import sys

import av
from PIL import Image

print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}")
signs = []
for orientation in (5, 6):
    exif, coded = Image.Exif(), io.BytesIO()
    exif[0x112] = orientation
    Image.new("RGB", (64, 48), "red").save(coded, "JPEG", exif=exif)
    with av.open(io.BytesIO(coded.getvalue())) as file:
        frame = next(file.decode(video=0))
    try:
        said = len(frame.side_data)
    except ValueError as error:
        said = error
    graph = av.filter.Graph()
    source = graph.add_buffer(width=64, height=48, format=frame.format, time_base=frame.time_base)
    cut, sink = graph.add("sidedata", "mode=delete:type=31"), graph.add("buffersink")
    source.link_to(cut)
    cut.link_to(sink)
    graph.configure()
    source.push(frame)
    matrix = struct.unpack("=9i", bytes(sink.pull().side_data["DISPLAYMATRIX"]))
    a, b, _, c, d = (value >> 16 for value in matrix[:5])
    print(f"EXIF orientation {orientation}: rotation {frame.rotation}, side data: {said}; matrix {a, b, c, d}")
    signs.append((frame.rotation, str(said), (a, b, c, d)))
expected = "31 is not a valid Type"
sys.exit(signs != [(-90, expected, (0, 1, 1, 0)), (-90, expected, (0, 1, -1, 0))])
EOF
venv/bin/python read.py
