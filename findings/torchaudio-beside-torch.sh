#!/usr/bin/env bash
# torchaudio 2.11.0, the last release, asks for no torch at all, and pip puts it beside one that it refuses.
#
# Up to 2.10 each torchaudio asked for the torch of its own number. 2.11.0 has no requirement: beside torch 2.14.1
# (CUDA 13.0) it imports, beside torch 2.15.0 (CUDA 13.2) `import torchaudio` raises a RuntimeError about the versions
# of CUDA, on a machine without any GPU too, and `pip check` finds nothing (seen 2026-11-28). Fetches about 3 GB.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
python="$folder/venv/bin/python"
"$python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 torchaudio==2.11.0
"$python" -m pip check
"$python" - <<'EOF'
import importlib.metadata as metadata

import torch

print("torch", torch.__version__, "asks of torchaudio 2.11.0:", metadata.requires("torchaudio"))
assert not metadata.requires("torchaudio")
try:
    import torchaudio
except RuntimeError as error:
    print("RuntimeError:", error)
    assert "different CUDA versions" in str(error)
else:
    raise SystemExit(f"torchaudio {torchaudio.__version__} imports")
EOF
