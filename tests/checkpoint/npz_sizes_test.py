"""An npz keeps what its names cannot say in a file beside it, and says so where there is none."""

import pytest

from paligemma_jax.checkpoint import npz
from paligemma_jax.checkpoint import npz_export
from paligemma_jax.core import errors
from tests.checkpoint import makers

_OTHERS = (
  {"final_softcap": 30.0},
  {"attn_softcap": 0.0},
  {"sliding_window": 4},
  {"query_scale": "width_per_head", "final_softcap": 7.5},
)


def _saved(tmp_path, **llm):
  model = makers.sizes(post_norms=True, num_kv_heads=2)
  model["llm"].update(llm)
  return npz_export.save_npz(tmp_path / "x.npz", makers.params(model), sizes=model), model


@pytest.mark.parametrize("llm", _OTHERS, ids=str)
def test_other_sizes_come_back(tmp_path, caplog, llm):
  with caplog.at_level("WARNING"):
    path, model = _saved(tmp_path, **llm)
  assert "cannot hold" in caplog.text and "x.npz.sizes.json" in caplog.text
  assert npz.open_npz(path).sizes == model


def test_published_sizes_need_no_file_and_remove_one(tmp_path):
  path, _ = _saved(tmp_path, sliding_window=4)
  assert npz.beside(path).exists()
  path, model = _saved(tmp_path)
  assert not npz.beside(path).exists()
  assert npz.open_npz(path).sizes == model


def test_without_the_file_a_warning_says_what_is_taken(tmp_path, caplog):
  path, _ = _saved(tmp_path, final_softcap=30.0)
  npz.beside(path).unlink()
  with caplog.at_level("WARNING"):
    assert npz.open_npz(path).sizes["llm"]["final_softcap"] == 0.0
  assert "attention softcap (50.0), final softcap (0.0)" in caplog.text
  caplog.clear()
  released = path.rename(tmp_path / "paligemma2-3b-pt-224.b16.npz")  # There they are the truth.
  first = makers.write_npz(tmp_path / "first.npz", makers.params(makers.sizes()))
  with caplog.at_level("WARNING"):
    npz.open_npz(released)
    npz.open_npz(first)
  assert not caplog.text


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"llm": 3}', '{"llm": {"width": 3}}', '{"llm": {"final_softcap": "30"}}',
     '{"llm": {"sliding_window": 2.5}}', '{"llm": {"final_softcap": -1}}',
     '{"llm": {"query_scale": "odd"}}', '{"llm": {"final_softcap": true}}'],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, content):
  path, _ = _saved(tmp_path, final_softcap=30.0)
  npz.beside(path).write_text(content)
  with pytest.raises(errors.CheckpointError, match=r"x\.npz\.sizes\.json"):
    npz.open_npz(path)
