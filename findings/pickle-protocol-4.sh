#!/usr/bin/env bash
# torch.load reads no state dict that torch.save wrote with pickle_protocol=4, unless weights_only=False runs its pickle.
#
# torch.save takes any protocol, and 4 has been Python's own default since 3.8. Since torch 2.6 torch.load is safe by
# default (weights_only=True), and its reader knows protocol 2 alone: the same tensors are read from the one file and
# refused in the other as "Unsupported operand 149", which is the frame that protocols from 4 on begin with (seen
# 2026-11-29 with 2.15.0). Fetches about 3 GB.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.15.0 numpy
venv/bin/python - <<'PY'
import pickle

import torch

state = torch.nn.Linear(2, 2).state_dict()
for protocol in (2, 4):
    torch.save(state, f"{protocol}.pth", pickle_protocol=protocol)
assert torch.load("2.pth").keys() == torch.load("4.pth", weights_only=False).keys() == state.keys()
try:
    torch.load("4.pth")
except pickle.UnpicklingError as error:
    (line,) = (line for line in str(error).splitlines() if "operand" in line)
    print("torch", torch.__version__, "protocol 4:", line)
    assert line == "Unsupported operand 149"
else:
    raise SystemExit("protocol 4 is read")
PY
