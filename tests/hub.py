"""A server on loopback that speaks what ``huggingface_hub`` and a download ask of the Hugging Face hub."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
import yaml

from tests.unit.test_pull import Handler, Server

SHA = "2ca3012ef85a60143a8f97b83a45bb1a7b5c2244"


@dataclass
class Repository:
    """A model: its ``branches`` by name, and the files of its ``commits``, by path."""

    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})

    def commit(self, branch: str, added: dict[str, bytes]) -> str:
        """Its name."""
        before = self.branches[branch]
        sha = hashlib.sha1(before.encode() + repr(sorted(added.items())).encode()).hexdigest()
        self.commits[sha] = self.commits[before] | added
        self.branches[branch] = sha
        return sha

    @property
    def files(self) -> dict[str, bytes]:
        """Those on its main branch."""
        return self.commits[self.branches["main"]]


class Hub(Server):
    """Holds one data set, ``repo``: small files are served as they are, those in ``large`` from another host, as the
    hub does it. ``refused``: paths that are answered with a status and the hub's word for it; ``seen``: path, host and
    authorization of each question; ``held``: how the path begins whose answer is withheld once (see ``Server``).

    ``models`` are those of ``OWNER``, who has the right to write, and of others, by name; ``blobs`` their large files
    by sha256, ``part`` the bytes of a part in which these are to be uploaded (None: in one). ``xet`` is a folder for
    the hub's other way, and ``by_xet`` what comes and goes by it alone: its hash there, by sha256."""

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
        self.models: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.part: int | None = None
        self.xet: Path | None = None
        self.by_xet: dict[str, str] = {}
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


def isolate(monkeypatch: pytest.MonkeyPatch, hub: Hub, folder: Path) -> None:
    """Nothing of the caller's own hub, here and in processes that are started: its cache and tokens in ``folder``."""
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    home = {"HF_HOME": folder, "HF_HUB_DISABLE_TELEMETRY": 1}
    # the hub's other way to upload, which is not spoken here
    for name, value in {"HF_ENDPOINT": hub.url, "no_proxy": "*", "HF_HUB_DISABLE_XET": 1, **home}.items():
        monkeypatch.setenv(name, str(value))
    constants = huggingface_hub.constants  # read when it was imported
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url.rstrip("/"))
    template = hub.url + "{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, huggingface_hub.file_download):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    places = {"HF_HUB_CACHE": "hub", "HF_TOKEN_PATH": "token", "HF_STORED_TOKENS_PATH": "tokens"}
    for name, place in places.items():
        monkeypatch.setattr(constants, name, str(folder / place), raising=False)


OWNER, TOKEN, LICENCES = "me", "hf_secret", ("apache-2.0", "cc-by-4.0", "other")
LARGE = ".safetensors"


class HubHandler(Handler):
    server: Hub

    def do_GET(self) -> None:
        path = self._asked()
        if status := self.server.refused.get(path):
            self._refuse(*status)
        elif target := self.server.redirects.get(path):
            self._answer(302, Location=target)
        elif not self._answer_of_model(path):
            if self.server.held and path.startswith(self.server.held):
                self.server.goes_on.clear()
                self.server.holds.set()
                self.server.held = None
            self.path = path
            super().do_GET()

    do_HEAD = do_GET

    def _asked(self) -> str:
        path = self.path.partition("?")[0].lstrip("/")
        host = self.headers["Host"].partition(":")[0]
        self.server.seen.append((path, host, self.headers.get("Authorization")))
        return path

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: object, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        self._answer(status, X_Error_Code=code, X_Error_Message=message or code)

    @property
    def _owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _model(self, name: str, revision: str = "main") -> tuple[Repository, str] | None:
        """The model and the commit, where they may be seen; else they are refused."""
        model = self.server.models.get(name)
        if model is None or (model.private and not self._owner):
            self._refuse(404 if self._owner else 401, "RepoNotFound")
            return None
        revision = revision.replace("%2F", "/")
        sha = model.branches.get(revision, revision)
        if sha not in model.commits:
            self._refuse(404, "RevisionNotFound")
            return None
        return model, sha

    def _answer_of_model(self, path: str) -> bool:
        if found := re.fullmatch(r"(\w[^/]*/[^/]+)/resolve/([^/]+)/(.+)", path):
            if found[1].startswith("api/") or found[1].startswith("datasets/"):
                return False
            if there := self._model(found[1], found[2]):
                self._answer_with_file(*there, found[3])
        elif found := re.fullmatch(r"api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            if there := self._model(found[1], found[3] or "main"):
                self._answer_with_list(found[1], *there, tree=found[2] == "tree")
        elif found := re.fullmatch(r"cdn/(\w+)", path):
            if found[1] not in self.server.blobs:
                return False
            self._answer(200, self.server.blobs[found[1]])
        elif re.fullmatch(r"api/models/[^/]+/[^/]+/xet-(read|write)-token/\w+", path):
            told = {
                "casUrl": f"local://{self.server.xet}",
                "accessToken": "short",
                "exp": int(time.time()) + 3600,
            }
            names = zip(("Cas_Url", "Access_Token", "Token_Expiration"), told.values(), strict=True)
            headers = {f"X_Xet_{name}": str(value) for name, value in names}
            self._answer(200, json.dumps(told).encode(), **headers)
        else:
            return False
        return True

    def _answer_with_file(self, model: Repository, sha: str, path: str) -> None:
        content = model.commits[sha].get(path)
        if model.gated and not self._owner:
            self._refuse(401, "GatedRepo")
        elif content is None:
            self._refuse(404, "EntryNotFound")
        elif path.endswith(LARGE):
            oid, size = hashlib.sha256(content).hexdigest(), str(len(content))
            self.server.blobs[oid] = content
            place = f"http://localhost:{self.server.server_port}/cdn/{oid}?signed"
            linked = {"X_Linked_Size": size, "X_Linked_Etag": f'"{oid}"'}
            if oid in self.server.by_xet:
                place = "http://127.0.0.1:9/"
                route = f"{self.server.url}api/models/{OWNER}/any/xet-read-token/{sha}"
                linked |= {"X_Xet_Hash": self.server.by_xet[oid], "X_Xet_Refresh_Route": route}
            self._answer(302, Location=place, X_Repo_Commit=sha, **linked)
        else:
            oid = hashlib.sha1(content).hexdigest()
            self._answer(200, content, X_Repo_Commit=sha, ETag=f'"{oid}"')

    def _answer_with_list(self, name: str, model: Repository, sha: str, *, tree: bool) -> None:
        files = model.commits[sha]
        if not tree:
            siblings = [{"rfilename": path} for path in files]
            facts = {"private": model.private, "gated": "auto" if model.gated else False, "tags": []}
            self._json({"id": name, "modelId": name, "sha": sha, "siblings": siblings, **facts})
            return
        entries = []
        for path, content in files.items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
            entry["oid"] = hashlib.sha1(content).hexdigest()
            if path.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self._json(entries)

    def do_POST(self) -> None:
        path, body = self._asked(), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if status := self.server.refused.get(path):
            self._refuse(*status)
        elif path == "api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif path.startswith("upload/"):
            self._finish_upload(path.split("/")[1], json.loads(body))
        elif not self._owner:
            self._refuse(401, "", "Invalid username or password.")
        elif path == "api/repos/create":
            self._create(json.loads(body))
        elif found := re.fullmatch(r"([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._json({"transfer": "basic", "objects": list(map(self._place, json.loads(body)["objects"]))})
        elif found := re.fullmatch(r"api/models/([^/]+/[^/]+)/(branch|preupload|commit)/([^/]+)", path):
            name, what, branch = found.groups()
            if what == "branch":
                model = self.server.models[name]
                self._json({}, 409 if branch in model.branches else 201)
                model.branches.setdefault(branch, model.branches["main"])
            elif what == "preupload" and self._model(name, branch):
                files = [entry["path"] for entry in json.loads(body)["files"]]
                modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in files}
                told = [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]
                self._json({"files": told})
            elif what == "commit":
                self._commit(name, branch, [json.loads(line) for line in body.splitlines()])
        else:
            self._refuse(404, "")

    def _validate(self, content: str) -> None:
        front = yaml.safe_load(content.split("---")[1])
        licence = front.get("license")
        errors = [{"message": f'"license" must be one of [{", ".join(LICENCES)}]'}]
        if licence is None or licence in LICENCES:
            warned = [] if licence else [{"message": "license is missing"}]
            self._json({"errors": [], "warnings": warned})
        else:
            self._json({"errors": errors, "warnings": []}, 400)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != OWNER:
            message = (
                f'You don\'t have the rights to create a model under the namespace "{wanted["organization"]}"'
            )
            self._refuse(403, "", message)
            return
        there = name in self.server.models
        private = wanted.get("private", False) or wanted.get("visibility") == "private"
        self.server.models.setdefault(name, Repository(private=private))
        self._json({"url": self.server.url + name, "id": name}, 409 if there else 200)

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Where a large file is to be put."""
        oid, size, part = wanted["oid"], wanted["size"], self.server.part
        if oid in self.server.blobs:
            return wanted
        place = f"http://localhost:{self.server.server_port}/upload/{oid}"
        upload: dict[str, Any] = {"href": place}
        if part is not None:
            count = -(-size // part)
            upload["header"] = {"chunk_size": str(part)} | {
                f"{n:05}": f"{place}/{n}" for n in range(1, count + 1)
            }
        return {**wanted, "actions": {"upload": upload}}

    def do_PUT(self) -> None:
        _, oid, *number = self._asked().split("/")
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if number:
            self.server.parts.setdefault(oid, {})[int(number[0])] = content
        else:
            assert hashlib.sha256(content).hexdigest() == oid
            self.server.blobs[oid] = content
        self._answer(200, ETag=f'"{hashlib.md5(content).hexdigest()}"')

    def _finish_upload(self, oid: str, told: dict[str, Any]) -> None:
        parts = self.server.parts.pop(oid)
        assert [part["partNumber"] for part in told["parts"]] == sorted(parts)
        self.server.blobs[oid] = b"".join(parts[number] for number in sorted(parts))
        assert hashlib.sha256(self.server.blobs[oid]).hexdigest() == oid
        self._json({})

    def _commit(self, name: str, branch: str, lines: list[dict[str, Any]]) -> None:
        assert lines[0]["key"] == "header" and lines[0]["value"]["summary"]
        added = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                added[value["path"]] = self.server.blobs[value["oid"]]
                assert len(added[value["path"]]) == value["size"]
            else:
                assert line["key"] == "file" and value["encoding"] == "base64"
                added[value["path"]] = base64.b64decode(value["content"])
        sha = self.server.models[name].commit(branch, added)
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}{name}/commit/{sha}"})
