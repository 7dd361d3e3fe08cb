#!/usr/bin/env bash
# The same mp4 gives sounds of other lengths under PyAV 18.1.0 (FFmpeg 8.1) and 19.0.2 (FFmpeg 9).
#
# An AAC encoder fills its last block of 1,024 samples; the mp4 says in its edit list where the sound ends. FFmpeg 8
# cuts the padding at the start and leaves that at the end, FFmpeg 9 cuts both. Two seconds at 16 kHz, written by the
# same encoder, were read as 32,768 samples by the one and as 32,000 by the other (seen 2026-11-28).
# Needs a Python from 3.12 on: PyAV 19 has wheels for no older one.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"

cat >write.py <<'EOF'
import av
import numpy as np

with av.open("clip.mp4", "w") as out:
    stream = out.add_stream("aac", rate=16000, layout="mono")
    sound = np.sin(np.arange(32000) / 8).astype(np.float32)[None] / 2
    frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 16000, 0
    out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
EOF
cat >read.py <<'EOF'
import sys

import av

with av.open("clip.mp4") as clip:
    samples = sum(frame.samples for frame in clip.decode(audio=0))
print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}: {samples} samples")
sys.exit(samples != int(sys.argv[1]))
EOF
for version in 18.1.0 19.0.2; do
    "${PYTHON:-python3}" -m venv "$version"
    "$version/bin/python" -m pip install --quiet --disable-pip-version-check "av==$version" numpy
done
18.1.0/bin/python write.py
18.1.0/bin/python read.py 32768
19.0.2/bin/python read.py 32000
