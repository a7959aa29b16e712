"""A stand-in for the part of the Hub's HTTP interface that uploads and downloads of models use.

Repositories are dictionaries in memory. Names decide about errors: `stranger/...` may not be written (403),
`me/conflict` changes under one's feet (412), `me/slow` breaks the connection, and reading `me/gated` is refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "abcdefgh" * 4
COMMIT = "c0ffee" + "0" * 34


class Hub(ThreadingHTTPServer):
    """The server and what was uploaded to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        """Quiet."""

    def answer(self, status: int, content: object = None, headers: dict[str, str] | None = None, body=b"") -> None:
        body = json.dumps(content).encode() if content is not None else body
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer(status, {"error": message}, headers)

    @property
    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_POST(self) -> None:
        path, content = unquote(urlsplit(self.path).path), self.body()
        self.server.requests.append(f"POST {path}")
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if not self.known:
            return self.refuse(401, "Invalid credentials in Authorization header")
        if path == "/api/repos/create":
            return self.create(json.loads(content))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path):
            return getattr(self, found[2])(found[1], content)
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.batch(json.loads(content))
        return self.refuse(404, "no such address")

    def create(self, wanted: dict) -> None:
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if name.startswith("stranger/"):
            return self.refuse(403, "You don't have the rights to create a model under the namespace")
        if name == "me/slow":
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        status = 409 if name in self.server.repositories else 200
        self.server.repositories.setdefault(name, {})
        self.server.private.setdefault(name, bool(wanted.get("private")) or wanted.get("visibility") == "private")
        return self.answer(status, {"url": f"{self.server.address}/{name}", "name": name})

    def preupload(self, name: str, content: bytes) -> None:
        files = json.loads(content)["files"]
        modes = {one["path"]: "lfs" if one["path"].endswith(".safetensors") else "regular" for one in files}
        self.answer(200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})

    def batch(self, wanted: dict) -> None:
        objects = [
            {"oid": one["oid"], "size": one["size"], "authenticated": True,
             "actions": {"upload": {"href": f"{self.server.address}/lfs/{one['oid']}", "header": {}}}}
            for one in wanted["objects"]
        ]  # fmt: skip
        self.answer(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def do_PUT(self) -> None:
        content = self.body()
        oid = hashlib.sha256(content).hexdigest()
        if self.path != f"/lfs/{oid}":
            return self.refuse(400, "the digest is another one")
        self.server.objects[oid] = content
        return self.answer(200, body=b"")

    def commit(self, name: str, content: bytes) -> None:
        if name == "me/conflict":
            return self.refuse(412, "A commit has happened since. Please refresh and try again.")
        changes = {}
        for line in content.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                changes[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "lfsFile":
                changes[entry["value"]["path"]] = self.server.objects[entry["value"]["oid"]]
        self.server.repositories[name].update(changes)
        address = f"{self.server.address}/{name}/commit/{COMMIT}"
        return self.answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": address})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if path == "/api/whoami-v2":
            return self.answer(200, {"name": "me", "type": "user"}) if self.known else self.refuse(401, "Invalid token")
        found = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+?)(?:/(resolve|revision|tree)/([^/]+)(?:/(.*))?)?", path)
        name, kind, file = (found[1], found[2], found[4]) if found else ("", "", "")
        if name == "me/gated":
            return self.refuse(403, "Access to model me/gated is restricted", "GatedRepo")
        held = self.server.repositories.get(name)
        if held is None or (self.server.private[name] and not self.known):
            return self.refuse(401 if not self.known else 404, "Repository not found", "RepoNotFound")
        return self.file(held, file) if kind == "resolve" else self.listing(name, held, kind)

    def listing(self, name: str, held: dict[str, bytes], kind: str | None) -> None:
        if kind == "tree":
            rows = [
                {"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for p, c in held.items()
            ]
            return self.answer(200, rows)
        return self.answer(200, {"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in held]})

    def file(self, held: dict[str, bytes], name: str) -> None:
        if name not in held:
            return self.answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        headers = {"ETag": f'"{hashlib.sha1(held[name]).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self.answer(200, headers=headers, body=held[name])
