#!/usr/bin/env bash
# snapshot_download(local_dir=DIR) of huggingface_hub 2.4.0 returns DIR as if all were well when no hub can be reached.
#
# It does so for a data set of which nothing was ever downloaded, if DIR holds any file at all: a log line says so, no
# exception does. With an empty DIR it raises LocalEntryNotFoundError. A script that goes on to read the files finds a
# part of them, or none (seen 2026-11-29).
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check huggingface_hub==2.4.0

cat >try.py <<'EOF'
from pathlib import Path

import huggingface_hub
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

print("huggingface_hub", huggingface_hub.__version__)
for content in ("", "my notes"):
    folder = Path(f"data-{len(content)}")
    folder.mkdir()
    if content:
        (folder / "notes.txt").write_text(content)
    try:
        got = snapshot_download("some/set", repo_type="dataset", local_dir=folder)
    except LocalEntryNotFoundError as error:
        got = None
        print(f"folder with nothing in it: {type(error).__name__}")
    else:
        print(f"folder with {[path.name for path in folder.iterdir()]} in it: returned {Path(got).name}")
    assert (got is not None) == bool(content)
EOF
HF_ENDPOINT=http://127.0.0.1:9 HF_HOME=home no_proxy='*' venv/bin/python try.py
