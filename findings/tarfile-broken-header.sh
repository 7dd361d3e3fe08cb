#!/usr/bin/env bash
# Python's tarfile, told to list a tar in which the header of one member is damaged, ends there without an error and
# leaves out all members behind it: a list that ends is no sign of a whole archive. ignore_zeros=True finds the others.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 - <<'PY'
import io
import sys
import tarfile

print("python", sys.version.split()[0])
with tarfile.open("a.tar", "w") as tar:
    for k in range(5):
        member = tarfile.TarInfo(f"{k}.bin")
        member.size = 1000
        tar.addfile(member, io.BytesIO(bytes([65 + k]) * 1000))
data = bytearray(open("a.tar", "rb").read())
third = 2 * (512 + 1024)
data[third : third + 20] = b"?" * 20
open("b.tar", "wb").write(data)
plain = tarfile.open("b.tar").getnames()
past = tarfile.open("b.tar", ignore_zeros=True).getnames()
print("listed:", plain, "no error")
print("listed with ignore_zeros:", past)
raise SystemExit(plain != ["0.bin", "1.bin"] or past != ["0.bin", "1.bin", "3.bin", "4.bin"])
PY
