"""The notebooks: clean in the repository, and executed from start to end on the small model."""

import pathlib
import re

import nbclient
import nbformat
import pytest

from paligemma_jax import api
from paligemma_jax.config import load as configs
from paligemma_jax.models import variants

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LICENSED = "licensed"  # The tag of cells that need licensed weights or an account.
GUARD = "if not TINY"
HOSTS = ("colab.research.google.com",)


def read(path):
  return nbformat.read(path, as_version=4)


def code(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_what_running_it_leaves(path):
  notebook = read(path)
  nbformat.validate(notebook)
  assert notebook.nbformat == 4
  for cell in code(notebook):
    assert not cell.outputs and cell.execution_count is None
  assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
  assert set(notebook.metadata) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_with_licensed_weights_are_marked_and_one_variable_skips_them(path):
  cells = code(read(path))
  setting = 'TINY = os.environ.get("PALIGEMMA_JAX_NOTEBOOK") == "tiny"'
  assert sum(setting in cell.source for cell in cells) == 1 and setting in cells[0].source
  marked = [cell for cell in cells if LICENSED in cell.metadata.get("tags", ())]
  assert marked
  for cell in cells:
    is_guarded = any(line.startswith(GUARD) for line in cell.source.splitlines())
    assert is_guarded == (cell in marked), cell.source
    for word in ("huggingface_hub", "files.download"):
      assert word not in cell.source or cell in marked


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_names_no_other_host_than_colab(path):
  text = path.read_text("utf-8")
  addresses = {word.partition("//")[2] for word in text.replace("(", " ").split() if "://" in word}
  assert addresses
  for address in addresses:
    assert address.startswith((*HOSTS, "/")), address  # file:///FOLDER has no host.


def executed(name, folder, monkeypatch):
  """The notebook after all cells ran in a process of its own, in this folder."""
  monkeypatch.setenv("PALIGEMMA_JAX_NOTEBOOK", "tiny")
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
  monkeypatch.setenv("JUPYTER_DATA_DIR", str(folder / "jupyter"))
  notebook = read(ROOT / "notebooks" / f"{name}.ipynb")
  place = {"metadata": {"path": str(folder)}}
  client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place)
  client.execute()
  return {cell.id: cell.outputs for cell in code(notebook)}


def shown(outputs):
  """[(HTML, the same as text)] of a cell."""
  kinds = ("display_data", "execute_result")
  found = [output.data for output in outputs if output.output_type in kinds]
  return [(data["text/html"], data["text/plain"]) for data in found if "text/html" in data]


# Budget of the three: 90 s on two cores.
@pytest.mark.slow
def test_fine_tuning_on_images_and_a_table(tmp_path, monkeypatch):
  outputs = executed("finetune_your_images", tmp_path, monkeypatch)
  ((html, text),) = shown(outputs["check"])
  assert "training" in text and html.count("href=&quot;data:image/png") == 8
  bar, images = shown(outputs["train"])
  assert "step 20/20 (100 %)" in bar[1] and 'aria-valuenow="100"' in bar[0]
  assert "polyline" in bar[0] and "val/exact" in bar[1]
  assert images[0].startswith("<iframe srcdoc=") and "target: " in images[1]
  assert not [o for o in outputs["train"] if o.output_type == "stream" and "step" in o.text]
  ((html, text),) = shown(outputs["use"])
  assert text.count("describe the picture -> ") == 4
  assert (tmp_path / "runs/mine/gallery.html").exists()
  # What one pushes is for PEFT, and opens here.
  names = {p.name for p in (tmp_path / "adapters").iterdir()}
  assert names >= {"adapter_config.json", "adapter_model.safetensors"}
  assert (tmp_path / "adapters.zip").exists()
  assert shown(outputs["again"])[0][1] == text


@pytest.mark.slow
def test_a_detector_from_a_coco_file(tmp_path, monkeypatch):
  outputs = executed("detector_from_coco", tmp_path, monkeypatch)
  ((html, text),) = shown(outputs["check"])
  assert "box-target" in html and "<seg127>" not in text
  bar, images = shown(outputs["train"])
  assert "val/map/map50" in bar[1] and "step 12/12 (100 %)" in bar[1]
  assert "box-target" in images[0] and "box-predicted" in images[0]
  ((html, _),) = shown(outputs["use"])
  assert "box-predicted" in html
  pg = api.load(tmp_path / "detector")
  assert pg.generate([None], ["x"], max_new_tokens=1)


@pytest.mark.slow
def test_an_image_is_read(tmp_path, monkeypatch):
  outputs = executed("read_an_image", tmp_path, monkeypatch)
  ((html, text),) = shown(outputs["read"])
  assert "caption en -> two crocodiles" in text and "box-predicted" in html
  *_, result = outputs["more"]
  assert result.data["text/plain"] in ("'yes'", "'no'")


def test_the_configuration_of_the_page_is_valid_and_reads_a_table(tmp_path, monkeypatch):
  page = (ROOT / "docs" / "notebooks.md").read_text("utf-8")
  (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
  (tmp_path / "data").mkdir()
  lines = [f"{i}.png,what?,{i}" for i in range(20)]
  (tmp_path / "data/answers.csv").write_text("\n".join(["image,prefix,suffix", *lines]))
  monkeypatch.chdir(tmp_path)
  made = {}
  exec(block, made)
  configs.validate(made["c"], variants=variants.VARIANTS)
  sizes = [len(source.open()) for source in (made["c"].train.source, made["val"])]
  assert sizes == [18, 2] and made["c"].lora.rank
  listed = re.findall(r"^\| `(\w+\.ipynb)` \|", page, re.MULTILINE)
  assert sorted(listed) == [path.name for path in NOTEBOOKS]
