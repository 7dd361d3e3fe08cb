#!/usr/bin/env bash
# huggingface_hub 2.4.0 throws away what came of a file when a download is interrupted: the next one begins at byte 0.
#
# Up to 0.36 an interrupted hf_hub_download left FILE.incomplete behind and went on from there, which is what
# "resumable" stands for in most texts. In 2.4.0 the file has a name of its own for each attempt and is deleted at the
# end, whatever happened; only within one process a broken connection goes on. Archives of 17 GB begin anew.
# Both versions run here against a server on loopback that stalls in the middle of a file (seen 2026-11-29).
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"

cat >try.py <<'EOF'
import hashlib
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FILE, asked, stalled, stall = bytes(40_000_000), [], threading.Event(), [True]
SHA = "a" * 40


class Hub(BaseHTTPRequestHandler):
    def answer(self, body):
        wanted = self.headers.get("Range")
        start = int(wanted[6:].split("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        for name, value in {
            "X-Repo-Commit": SHA,
            "ETag": '"%s"' % hashlib.sha256(FILE).hexdigest(),
            "Accept-Ranges": "bytes",
            "Content-Length": len(FILE) - start,
            **({"Content-Range": f"bytes {start}-{len(FILE) - 1}/{len(FILE)}"} if wanted else {}),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        if not body:
            return
        asked.append(wanted)
        if stall[0]:
            self.wfile.write(FILE[:25_000_000])
            self.wfile.flush()
            stalled.set()
            threading.Event().wait(20)
        else:
            self.wfile.write(FILE[start:])

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
environment = {
    **os.environ,
    "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
    "HF_HOME": "home",
    "HF_HUB_DISABLE_XET": "1",
    "no_proxy": "*",
}
code = (
    "import huggingface_hub as h; print('huggingface_hub', h.__version__, flush=True);"
    "h.hf_hub_download('some/set', 'part.tar', repo_type='dataset', local_dir='out')"
)
first = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
stalled.wait(60)
for _ in range(100):  # until its bytes are on the disk, or for two seconds
    first.poll()
    threading.Event().wait(0.02)
first.send_signal(signal.SIGINT)
first.wait(60)
kept = [path.stat().st_size for path in Path("out").rglob("*.incomplete")]
stall[0] = False
subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL, check=True)
print(f"kept {kept}, then asked for {asked[-1]}")
assert Path("out/part.tar").read_bytes() == FILE
lost = not kept and asked[-1] is None
assert lost or (kept[0] > 0 and asked[-1] == f"bytes={kept[0]}-")
sys.exit(lost != (sys.argv[1] == "lost"))
EOF
for pair in 0.36.2=kept 2.4.0=lost; do
    "${PYTHON:-python3}" -m venv "venv-$pair"
    "venv-$pair/bin/python" -m pip install --quiet --disable-pip-version-check "huggingface_hub==${pair%=*}"
    rm -rf out home
    "venv-$pair/bin/python" try.py "${pair#*=}"
done
