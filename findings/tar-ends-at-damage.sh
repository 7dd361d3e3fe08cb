#!/usr/bin/env bash
# One damaged header in a tar file, and Python's tarfile ends there as if the file did: no exception, fewer members.
#
# tarfile raises ReadError only where the very first header is damaged. Behind any other one the rest is lost without
# a word, in listing and in stream mode, and so for webdataset 1.0.2, which reads with tarfile: of 10 samples it gives
# 4, and its handler for errors is not called. GNU tar goes on, lists the other 9 and exits with 2 (seen 2026-11-29).
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check webdataset==1.0.2 numpy

cat >try.py <<'EOF'
import io
import platform
import tarfile

import webdataset

with tarfile.open("part.tar", "w") as tar:
    for number in range(10):
        member = tarfile.TarInfo(f"clip{number}.txt")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"sound"))
with open("part.tar", "r+b") as file:  # a header and its content take 1,024 bytes here
    file.seek(4 * 1024 + 150)
    file.write(b"\xff")
with tarfile.open("part.tar") as tar:
    listed = len(tar.getnames())
with tarfile.open("part.tar", "r|") as tar:
    streamed = sum(1 for _ in tar)
errors = []
shards = webdataset.WebDataset("part.tar", shardshuffle=False, handler=lambda error: errors.append(error) or True)
samples = sum(1 for _ in shards)
print(f"Python {platform.python_version()}: {listed} of 10 listed, {streamed} streamed")
print(f"webdataset {webdataset.__version__}: {samples} samples, errors {errors}")
assert (listed, streamed, samples, errors) == (4, 4, 4, [])
EOF
venv/bin/python try.py
code=0
tar tf part.tar >names 2>words || code=$?
echo "$(tar --version | head -1): $(wc -l <names) listed, exit $code: $(head -1 words)"
[ "$(wc -l <names)" = 9 ] && [ "$code" = 2 ]
