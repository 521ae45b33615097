"""Google Cloud Storage on one machine: the JSON API that gcsfs and tensorstore speak, with faults.

Objects live in the memory of this process, so they outlast the processes that write them. It is
as the real one in what a run rests on: an object appears whole or not at all, listings are
consistent, preconditions (`ifGenerationMatch`) are checked and acted on in one step, objects have
their MD5 and CRC-32C.

    python -m tests.fake_bucket    prints the port

`bucket_client.Client` steers it: `plan` sets the faults (see `Rule`), `damage` changes bytes of an
object as a broken disk would, `objects` and `requests` tell what is there and what was asked for.
"""

from __future__ import annotations

import base64
import dataclasses
import email.parser
import hashlib
import http.client
import json
import re
import threading
import time
import urllib.parse
from typing import Any

from tests import json_server


@dataclasses.dataclass
class Rule:
  """What to do with the requests that match, after `skip` of them, for `times` of them.

  Attributes:
    method, path: regular expressions of the whole method and of a part of 'bucket/object'.
    status: answer this and do nothing; 0 answers as usual.
    delay: seconds to wait before.
    cut: close the connection in the middle of the answer.
    lost: do what was asked, then answer `status` as if it had failed.
  """

  method: str = ".*"
  path: str = ""
  status: int = 0
  skip: int = 0
  times: int = 1 << 60
  delay: float = 0.0
  cut: bool = False
  lost: bool = False


@dataclasses.dataclass
class Object:
  data: bytes
  generation: int
  updated: str
  crc32c: str
  md5: str


class Store:
  """Objects by 'bucket/name', and the plan of faults; one lock for all."""

  def __init__(self):
    self.lock = threading.RLock()
    self.objects: dict[str, Object] = {}
    self.uploads: dict[str, tuple[str, dict[str, str], bytearray]] = {}
    self.rules: list[Rule] = []
    self.requests: list[tuple[str, str]] = []
    self._generation = 1000

  def fault(self, method: str, path: str) -> Rule | None:
    with self.lock:
      self.requests.append((method, path))
      for rule in self.rules:
        if re.fullmatch(rule.method, method) and re.search(rule.path, path) and rule.times > 0:
          if rule.skip > 0:
            rule.skip -= 1
            continue
          rule.times -= 1
          return rule
    return None

  def put(self, path: str, data: bytes, query: dict[str, str]) -> Object | None:
    """The new object; None where a precondition fails."""
    with self.lock:
      if not self._allowed(path, query):
        return None
      self._generation += 1
      made = Object(data, self._generation, _now(), _crc32c(data), _md5(data))
      self.objects[path] = made
      return made

  def delete(self, path: str, query: dict[str, str]) -> int:
    with self.lock:
      if path not in self.objects:
        return 404
      if not self._allowed(path, query):
        return 412
      del self.objects[path]
      return 204

  def _allowed(self, path: str, query: dict[str, str]) -> bool:
    now = self.objects[path].generation if path in self.objects else 0
    wanted, unwanted = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
    return (wanted is None or int(wanted) == now) and (unwanted is None or int(unwanted) != now)


class Handler(json_server.Handler):
  """Answers for all buckets."""

  store: Store

  def answer(self) -> None:
    method, body = self.command, self._body()
    url = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
    if url.path.startswith("/_"):
      return self._steer(url.path, body)
    if url.path.startswith("/batch"):
      return self._batch(body)
    path = _object_of(url.path, query)
    if query.get("uploadType") == "multipart":
      name, body = _multipart(self.headers["Content-Type"], body)
      path = path.split("/")[0] + "/" + name
    rule = self.store.fault(method, path)
    if rule:
      time.sleep(rule.delay)
      if rule.status and not rule.lost:
        return self._error(rule.status)
    result = self._do(method, url.path, path, query, body)
    if rule and rule.lost:
      return self._error(rule.status)
    self.send(*result, cut=bool(rule and rule.cut))

  def _do(self, method, url, path, query, body) -> tuple[int, bytes, dict[str, str]]:
    if url.startswith("/upload") or "/upload/" in url:
      return self._upload(path, query, body)
    if method == "POST" and url.endswith("/b"):
      return _json({"name": json.loads(body)["name"], "kind": "storage#bucket"})
    bucket, _, name = path.partition("/")
    if not name:  # A bucket, or the listing of one.
      return _json(
        {"name": bucket, "kind": "storage#bucket"}
        if url.rstrip("/").endswith(f"/b/{bucket}")
        else self._list(bucket, query)
      )
    if method == "DELETE":
      status = self.store.delete(path, query)
      return (status, b"", {}) if status == 204 else _failure(status)
    if found := re.search(r"/b/[^/]+/o/([^/]+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/(.+)$", url):
      return self._copy(path.split("/")[0], *map(urllib.parse.unquote, found.groups()))
    with self.store.lock:
      found = self.store.objects.get(path)
    if found is None:
      return _failure(404)
    if query.get("ifGenerationNotMatch") == str(found.generation):
      return 304, b"", {}
    if query.get("ifGenerationMatch", str(found.generation)) != str(found.generation):
      return _failure(412)
    if query.get("alt") != "media":
      return _json(_resource(path, found))
    return self._media(found)

  def _media(self, found: Object) -> tuple[int, bytes, dict[str, str]]:
    headers = {
      "x-goog-generation": str(found.generation),
      "x-goog-hash": f"crc32c={found.crc32c}",
      "Content-Type": "application/octet-stream",
    }
    size = len(found.data)
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
    if not wanted:
      return 200, found.data, headers
    first, last = wanted.groups()
    begin = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if begin >= size:
      return _failure(416)
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
    return 206, found.data[begin:end], headers

  def _upload(self, path, query, body) -> tuple[int, bytes, dict[str, str]]:
    kind = query.get("uploadType")
    if "upload_id" in query:
      return self._part(query["upload_id"], body)
    if kind == "resumable":
      name = query.get("name") or json.loads(body)["name"]
      with self.store.lock:
        upload = f"u{len(self.store.uploads)}"
        self.store.uploads[upload] = (path.split("/")[0] + "/" + name, query, bytearray())
      host = self.headers["Host"]
      return 200, b"", {"Location": f"http://{host}{self.path}&upload_id={upload}"}
    made = self.store.put(path, body, query)
    return _json(_resource(path, made)) if made else _failure(412)

  def _part(self, upload, body) -> tuple[int, bytes, dict[str, str]]:
    with self.store.lock:
      if upload not in self.store.uploads:
        return _failure(404)
      path, query, data = self.store.uploads[upload]
      data += body
      span = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+|\*)", self.headers.get("Content-Range", ""))
      if span and (span[1] == "*" or int(span[1]) > len(data)):
        return 308, b"", {"Range": f"bytes=0-{len(data) - 1}"} if data else {}
      del self.store.uploads[upload]
    made = self.store.put(path, bytes(data), query)
    return _json(_resource(path, made)) if made else _failure(412)

  def _copy(self, bucket, name, to_bucket, to_name) -> tuple[int, bytes, dict[str, str]]:
    with self.store.lock:
      found = self.store.objects.get(f"{bucket}/{name}")
    if found is None:
      return _failure(404)
    path = f"{to_bucket}/{to_name}"
    made = self.store.put(path, found.data, {})
    return _json(
      {"kind": "storage#rewriteResponse", "done": True, "resource": _resource(path, made)}
    )

  def _list(self, bucket, query) -> dict[str, Any]:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    limit = int(query.get("maxResults", 1000))
    begin = query.get("startOffset", "")
    after = query.get("pageToken", "")
    items, prefixes = [], []
    with self.store.lock:
      for path in sorted(self.store.objects):
        name = path.removeprefix(bucket + "/")
        if path == name or not name.startswith(prefix) or name < begin:
          continue
        if "endOffset" in query and query["endOffset"] and name >= query["endOffset"]:
          continue
        rest = name[len(prefix) :]
        folder = (
          prefix + rest.split(delimiter)[0] + delimiter if (delimiter and delimiter in rest) else ""
        )
        if (folder or name) <= after:
          continue
        if folder in prefixes:
          continue
        if len(items) + len(prefixes) == limit:
          last = max([i["name"] for i in items] + prefixes)
          return {"items": items, "prefixes": prefixes, "nextPageToken": last}
        if folder:
          prefixes.append(folder)
        else:
          items.append(_resource(path, self.store.objects[path]))
    return {"kind": "storage#objects", "items": items, "prefixes": prefixes}

  def _batch(self, body) -> None:
    kind = self.headers["Content-Type"]
    whole = email.parser.BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    answers = []
    for part in whole.get_payload():
      first = part.get_payload().strip().splitlines()[0]
      method, target, _ = first.split(" ")
      url = urllib.parse.urlsplit(target)
      query = dict(urllib.parse.parse_qsl(url.query))
      path = _object_of(url.path, query)
      rule = self.store.fault(method, path)
      status = rule.status if rule and rule.status else self.store.delete(path, query)
      answers.append(
        f"--b\r\nContent-Type: application/http\r\nContent-ID: <response-{part['Content-ID']}>\r\n"
        f"\r\nHTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n\r\n"
      )
    data = ("".join(answers) + "--b--").encode()
    self.send(200, data, {"Content-Type": "multipart/mixed; boundary=b"})

  def _steer(self, path: str, body: bytes) -> None:
    store = self.store
    with store.lock:
      if path == "/_plan":
        store.rules = [Rule(**rule) for rule in json.loads(body)]
      elif path == "/_damage":
        wanted = json.loads(body)
        name, kind = wanted["name"], wanted["kind"]
        if kind == "delete":
          del store.objects[name]
        else:
          data = bytearray(store.objects[name].data)
          if kind == "half":
            data = data[: len(data) // 2]
          elif kind == "empty":
            data = bytearray()
          else:
            data[wanted.get("at", len(data) // 2)] ^= 1 << wanted.get("bit", 0)
          store.put(name, bytes(data), {})
      elif path == "/_requests":
        return self.send(*_json(store.requests))
      elif path == "/_objects":
        listed = {name: [len(o.data), o.crc32c] for name, o in store.objects.items()}
        return self.send(*_json(listed))
    self.send(*_json({}))

  def _body(self) -> bytes:
    if self.headers.get("Transfer-Encoding", "") == "chunked":
      parts = []
      while size := int(self.rfile.readline().strip() or b"0", 16):
        parts.append(self.rfile.read(size))
        self.rfile.readline()
      self.rfile.readline()
      return b"".join(parts)
    return self.rfile.read(int(self.headers.get("Content-Length") or 0))

  def _error(self, status: int) -> None:
    self.send(*_failure(status))


def _object_of(url: str, query: dict[str, str]) -> str:
  """'bucket/object' of an address; 'bucket/' of a listing."""
  url = re.sub("/(rewriteTo|copyTo)/.*", "", url)
  found = re.search(r"/b/([^/]+)(?:/o(?:/(.*))?)?$", url)
  if not found:
    return url
  bucket, name = found.groups()
  name = urllib.parse.unquote(name) if name is not None else query.get("name", "")
  return f"{bucket}/{name}"


def _multipart(content_type: str, body: bytes) -> tuple[str, bytes]:
  """(name, content) of an upload whose first part describes it."""
  boundary = re.search(r"""boundary=["']?([^"';]+)""", content_type)[1].encode()
  described, content = body.split(b"--" + boundary)[1:3]
  line = b"\r\n" if described.startswith(b"\r\n") else b"\n"  # The content may end with either.
  blank = re.compile(line + line)
  name = json.loads(blank.split(described, maxsplit=1)[1])["name"]
  begin = body.index(content) + blank.search(content).end()
  end = re.search(line + b"--" + re.escape(boundary) + rb"--\s*$", body).start()
  return name, body[begin:end]


def _resource(path: str, found: Object) -> dict[str, Any]:
  bucket, name = path.split("/", 1)
  return {
    "kind": "storage#object",
    "id": f"{path}/{found.generation}",
    "name": name,
    "bucket": bucket,
    "generation": str(found.generation),
    "metageneration": "1",
    "size": str(len(found.data)),
    "crc32c": found.crc32c,
    "md5Hash": found.md5,
    "timeCreated": found.updated,
    "updated": found.updated,
    "etag": str(found.generation),
  }


def _json(value: Any) -> tuple[int, bytes, dict[str, str]]:
  return 200, json.dumps(value).encode(), {"Content-Type": "application/json"}


def _failure(status: int) -> tuple[int, bytes, dict[str, str]]:
  reason = http.client.responses.get(status, "fault")
  error = {"code": status, "message": reason, "errors": [{"reason": reason}]}
  return status, json.dumps({"error": error}).encode(), {"Content-Type": "application/json"}


def _md5(data: bytes) -> str:
  return base64.b64encode(hashlib.md5(data).digest()).decode()


def _crc32c(data: bytes) -> str:
  import google_crc32c  # It comes with gcsfs.

  return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


def _now() -> str:
  now = time.time()
  return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"


if __name__ == "__main__":
  Handler.store = Store()
  json_server.serve(Handler)
