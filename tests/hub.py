"""A server on loopback that speaks what ``huggingface_hub`` and a download ask of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import threading

from tests.unit.test_pull import Handler, Server

SHA = "2ca3012ef85a60143a8f97b83a45bb1a7b5c2244"


class Hub(Server):
    """Holds one data set, ``repo``: small files are served as they are, those in ``large`` from another host, as the
    hub does it. ``refused``: paths that are answered with a status and the hub's word for it; ``seen``: path, host and
    authorization of each question; ``held``: how the path begins whose answer is withheld once (see ``Server``)."""

    def __init__(
        self, repo: str, files: dict[str, bytes], *, large: tuple[str, ...] = (), **card: object
    ) -> None:
        super().__init__(HubHandler)
        self.repo, self.large = repo, large
        self.refused: dict[str, tuple[int, str]] = {}
        self.seen: list[tuple[str, str, str | None]] = []
        self.redirects: dict[str, str] = {}
        self.held: str | None = None
        self.holds = threading.Event()
        info = {
            "id": repo,
            "sha": SHA,
            "gated": False,
            "private": False,
            "tags": [],
            "cardData": card,
            "siblings": [],
        }
        self.publish_info(**info)
        tree = []
        for path, content in files.items():
            sha256 = hashlib.sha256(content).hexdigest()
            entry = {"type": "file", "path": path, "size": len(content), "oid": sha256[:40]}
            if path in large:
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
                self.files[f"cdn/{sha256}"] = content
                self.redirects[self.resolved(path)] = (
                    f"http://localhost:{self.server_port}/cdn/{sha256}?signed"
                )
            else:
                self.files[self.resolved(path)] = content
            tree.append(entry)
        self.files[f"api/datasets/{repo}/tree/{SHA}"] = json.dumps(tree).encode()
        self.files[f"api/datasets/{repo}/auth-check"] = b"{}"

    def publish_info(self, **info: object) -> None:
        """What the hub says of the data set."""
        for name in ("", f"/revision/{SHA}", "/revision/main"):
            self.files[f"api/datasets/{self.repo}{name}"] = json.dumps(info).encode()
        self.info = info

    def resolved(self, path: str) -> str:
        """Where the file ``path`` is asked for."""
        return f"datasets/{self.repo}/resolve/{SHA}/{path}"


class HubHandler(Handler):
    server: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].lstrip("/")
        host = self.headers["Host"].partition(":")[0]
        self.server.seen.append((path, host, self.headers.get("Authorization")))
        if status := self.server.refused.get(path):
            self._answer(status[0], **{"X-Error-Code": status[1], "X-Error-Message": status[1]})
        elif target := self.server.redirects.get(path):
            self._answer(302, Location=target)
        else:
            if self.server.held and path.startswith(self.server.held):
                self.server.goes_on.clear()
                self.server.holds.set()
                self.server.held = None
            self.path = path
            super().do_GET()

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()
