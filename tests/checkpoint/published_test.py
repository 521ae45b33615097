"""Ids of the Hugging Face hub: found in its cache, else an error that says how to get them."""

import http.server
import json
import re
import threading

import pytest

from paligemma_jax.checkpoint import published
from paligemma_jax.core import errors
from tests.checkpoint import makers

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
  for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
  monkeypatch.setenv(published.DIRECTORY_VARIABLE, str(tmp_path / "checkpoints"))
  monkeypatch.chdir(tmp_path)
  return tmp_path / "home" / "hub"


def _snapshot(cache, repo, revision="main", num_shards=0):
  place = cache / ("models--" + repo.replace("/", "--"))
  folder = place / "snapshots" / _COMMIT
  folder.parent.mkdir(parents=True)
  (place / "refs").mkdir()
  (place / "refs" / revision).write_text(_COMMIT)
  model = makers.sizes()
  tensors = makers.hf_tensors(makers.params(model), model)
  return makers.write_hf(folder, tensors, makers.hf_config(model), num_shards=num_shards)


@pytest.mark.parametrize("num_shards", [0, 2])
def test_an_id_is_found_in_the_cache(cache, num_shards):
  folder = _snapshot(cache, "google/paligemma2-3b-pt-224", num_shards=num_shards)
  assert published.find("google/paligemma2-3b-pt-224") == folder
  assert published.find("pt_3b_224") == folder  # The short name of the same.
  assert published.find(f"google/paligemma2-3b-pt-224@{_COMMIT}") == folder


def test_a_revision_and_any_owner(cache):
  folder = _snapshot(cache, "somebody/my.model", "bfloat16")
  assert published.find("somebody/my.model@bfloat16") == folder
  with pytest.raises(errors.CheckpointError, match="Hugging Face hub"):
    published.find("somebody/my.model@nothing-such")


def test_the_npz_of_a_jax_release(cache):
  folder = _snapshot(cache, "google/paligemma2-3b-pt-224-jax")
  for path in folder.iterdir():
    path.unlink()
  (folder / "paligemma2-3b-pt-224.b16.npz").touch()
  found = published.find("google/paligemma2-3b-pt-224-jax")
  assert found == folder / "paligemma2-3b-pt-224.b16.npz"


def test_a_snapshot_that_is_not_whole_is_none(cache):
  folder = _snapshot(cache, "google/paligemma-3b-pt-224", num_shards=2)
  (folder / "model-00002-of-00002.safetensors").unlink()
  assert published.cached_on_hub("google/paligemma-3b-pt-224") is None


def test_what_is_not_there_says_how_to_get_it(cache, monkeypatch):
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  for name in ("google/paligemma-3b-pt-224", "google/paligemma-3b-ft-vqav2-448", "a/b@float16"):
    with pytest.raises(errors.CheckpointError, match="hf download") as found:
      published.find(name)
    assert re.search("id of the Hugging Face hub", str(found.value)) and name in str(found.value)
  with pytest.raises(errors.CheckpointError, match=r"published as paligemma-3b-ft-docvqa-896\.npz"):
    published.find("ft_docvqa_896")
  with pytest.raises(errors.CheckpointError, match=r"Did you mean .*'ft_vqav2_448'"):
    published.find("ft_vqa2_448")


def test_a_path_of_a_folder_that_is_here_is_no_id(cache, tmp_path):
  (tmp_path / "runs").mkdir()
  with pytest.raises(errors.CheckpointError, match="no such file or directory") as found:
    published.find("runs/demo")
  assert "hub" not in str(found.value)


def test_without_the_package_the_error_names_it(cache):
  try:
    import huggingface_hub  # noqa: F401
  except ImportError:
    with pytest.raises(errors.CheckpointError, match="pip install huggingface_hub"):
      published.find("google/paligemma-3b-pt-224")
  else:
    pytest.skip("the package is installed; the next test downloads")


def test_a_download_that_broke_off_is_an_error_and_then_goes_on(cache, monkeypatch, tmp_path):
  pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
  model = makers.sizes()
  source = makers.write_hf(
    tmp_path / "source", makers.hf_tensors(makers.params(model), model), makers.hf_config(model)
  )
  server = _Hub(source)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.setattr(
    "huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}"
  )
  monkeypatch.setattr(
    "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
    f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
  )
  try:
    server.cut_after = 2000
    with pytest.raises(errors.CheckpointError, match="goes on with what is there"):
      published.find_on_hub("somebody/model")
    server.cut_after = 0
    folder = published.find_on_hub("somebody/model")
  finally:
    server.shutdown()
  for name in ("config.json", "model.safetensors"):
    assert (folder / name).read_bytes() == (source / name).read_bytes()
  assert published.cached_on_hub("somebody/model") == folder


class _Hub(http.server.ThreadingHTTPServer):
  """As much of the hub as a download needs, over a folder; cuts large answers short if asked."""

  def __init__(self, folder):
    super().__init__(("127.0.0.1", 0), _Answer)
    self.folder, self.cut_after = folder, 0


class _Answer(http.server.BaseHTTPRequestHandler):
  """Answers to GET and HEAD."""

  def do_HEAD(self):
    self._answer(body=False)

  def do_GET(self):
    self._answer(body=True)

  def log_message(self, *args):
    pass

  def _answer(self, body):
    if "/resolve/" not in self.path:
      files = [{"rfilename": p.name} for p in self.server.folder.iterdir()]
      content = {
        "id": "somebody/model",
        "modelId": "somebody/model",
        "sha": _COMMIT,
        "siblings": files,
        "private": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
      }
      if "/tree/" in self.path:
        content = [
          {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0" * 40}
          for p in self.server.folder.iterdir()
        ]
      return self._send(json.dumps(content).encode(), {"Content-Type": "application/json"}, body)
    data = (self.server.folder / self.path.rpartition("/")[2].partition("?")[0]).read_bytes()
    headers = {"ETag": f'"{len(data):040x}"', "X-Repo-Commit": _COMMIT, "Accept-Ranges": "bytes"}
    return self._send(data, headers, body)

  def _send(self, data, headers, body):
    start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
    at = int(start[1]) if start else 0
    self.send_response(206 if start else 200)
    if start:
      self.send_header("Content-Range", f"bytes {at}-{len(data) - 1}/{len(data)}")
    for key, value in headers.items():
      self.send_header(key, value)
    self.send_header("Content-Length", str(len(data) - at))
    self.end_headers()
    cut = self.server.cut_after
    if body:
      self.wfile.write(data[at : at + cut] if cut and len(data) > 3000 else data[at:])
      self.close_connection = True
