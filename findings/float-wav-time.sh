#!/usr/bin/env bash
# Two float WAV files of the same samples, written by soundfile 0.13.1 (libsndfile 1.2.2), differ in their bytes.
#
# For float formats libsndfile adds a PEAK chunk, and its second word is the time of writing in seconds. Files written a
# second apart have other checksums; 16-bit files have no such chunk and are equal. Seen 2026-11-28: bytes 60 to 63.
# soundfile has no argument that leaves the chunk out.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check soundfile==0.13.1 numpy

cat >write.py <<'EOF'
import io
import time

import numpy as np
import soundfile

print(f"soundfile {soundfile.__version__}, {soundfile.__libsndfile_version__}")
for subtype, same in {"FLOAT": False, "PCM_16": True}.items():
    files = []
    for _ in range(2):
        content = io.BytesIO()
        soundfile.write(content, np.linspace(-0.5, 0.5, 800, dtype=np.float32), 16000, format="WAV", subtype=subtype)
        files.append(content.getvalue())
        time.sleep(1.1)
    differ = [k for k, (one, two) in enumerate(zip(*files, strict=True)) if one != two]
    print(f"{subtype}: PEAK chunk {b'PEAK' in files[0]}, bytes that differ: {differ}")
    assert (files[0] == files[1]) == same
    assert same or set(differ) <= set(range(60, 64)), differ
EOF
venv/bin/python write.py
