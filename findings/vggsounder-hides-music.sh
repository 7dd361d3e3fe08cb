#!/usr/bin/env bash
# VGGSounder() of the package vggsounder 1.0 leaves out every clip with background music: 12,014 of 15,069 clips remain.
#
# The default is background_music=False, which filters; None is all clips, and compute_all_results of the same package
# takes None, so that its scores are of other clips than the object's (3,055 more). Under "av" it judges the labels that
# are audible and visible alone: a model that names what only sounds is wrong there. __version__ says 0.1.0, and
# vggsounder.benchmark imports scikit-learn, which the package does not ask for (seen 2026-11-30).
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps vggsounder==1.0

cat >try.py <<'EOF'
from importlib.metadata import requires, version
from pathlib import Path

import vggsounder
from vggsounder import VGGSounder

usual, every = VGGSounder(), VGGSounder(background_music=None)
music = sum(video.meta_labels["background_music"] for video in every)
print(f"version {version('vggsounder')}, __version__ {vggsounder.__version__}")
print(f"VGGSounder() has {len(usual)} clips, with background_music=None {len(every)}, {music} of these with music")
assert len(every) - len(usual) == music == 3055
needed = [line for line in requires("vggsounder") if "extra ==" not in line]
imports = "from sklearn" in (Path(vggsounder.__file__).parent / "benchmark.py").read_text()
print(f"it asks for {needed}; its benchmark imports scikit-learn: {imports}")
assert imports and not any("scikit-learn" in line for line in needed)
EOF
venv/bin/python try.py
