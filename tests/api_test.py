"""The public face: load, logits, generate, save; equal to Hugging Face's outputs."""

import functools
import io

import jax
import numpy as np
import pytest
from PIL import Image

import paligemma_jax as pj
from paligemma_jax import api
from paligemma_jax.checkpoint import export
from paligemma_jax.checkpoint import opening
from paligemma_jax.models import paligemma
from paligemma_jax.models import variants
from paligemma_jax.pp import image_input
from tests import golden_files

_NUM_IMAGE_TOKENS = 16
_EOS = 1


@pytest.fixture(scope="module", params=["hf_paligemma", "hf_paligemma2"])
def hf(request):
  path = golden_files.path(request.param)
  with np.load(path / "golden.npz") as golden:
    return pj.load(path, dtype="float32"), dict(golden)


def _images(golden):
  return golden["pixel_values"].transpose(0, 2, 3, 1)


def test_logits_and_log_probabilities_are_hugging_faces(hf):
  pg, golden = hf
  text = golden["input_ids"][:, _NUM_IMAGE_TOKENS:]
  valid = golden["attention_mask"][:, _NUM_IMAGE_TOKENS:]
  suffix = golden["token_type_ids"][:, _NUM_IMAGE_TOKENS:]
  logits = np.asarray(pg.logits(_images(golden), text, np.where(valid, suffix, 1), valid))
  expected = golden["logits"][:, _NUM_IMAGE_TOKENS:]
  real = valid.astype(bool)
  # 1e-4 is the project's bar for float32; seen: 1e-5.
  np.testing.assert_allclose(logits[real], expected[real], rtol=0, atol=1e-4)
  logprob = np.asarray(jax.nn.log_softmax(logits))[:, :-1]
  logprob = np.take_along_axis(logprob, text[:, 1:, None], axis=2)[..., 0]
  supervised = golden["token_logprob"][:, _NUM_IMAGE_TOKENS:] != 0
  assert supervised.sum() > 10
  np.testing.assert_allclose(
    logprob[supervised],
    golden["token_logprob"][:, _NUM_IMAGE_TOKENS:][supervised],
    rtol=0,
    atol=1e-4,
  )


def test_greedy_tokens_are_hugging_faces(hf):
  pg, golden = hf
  rows = zip(golden["prompt_ids"], golden["prompt_mask"].astype(bool), strict=True)
  prompts = [ids[mask][_NUM_IMAGE_TOKENS:].tolist() for ids, mask in rows]
  predictions = pg.generate(_images(golden), prompts, max_new_tokens=12, batch_size=3)
  for prediction, expected in zip(predictions, golden["generated"], strict=True):
    ids = expected.tolist()
    ids = ids[: ids.index(_EOS) + 1] if _EOS in ids else ids
    assert list(prediction.tokens) == ids
    assert prediction.text == ""  # There is no tokenizer with these weights.
    assert prediction.logprob == pytest.approx(sum(prediction.token_logprobs), rel=1e-5)


def test_text_without_a_tokenizer_is_an_error_that_says_what_to_do(hf):
  pg, golden = hf
  with pytest.raises(pj.ConfigError, match=r"tokenizer\.model"):
    pg.generate(_images(golden)[:1], ["caption en"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  """A random model with the demo's tokenizer."""
  from paligemma_jax.trainer import setup

  path = tmp_path_factory.mktemp("tiny") / "tiny.npz"
  model_config = variants.get("tiny", res=28, dtype="float32")
  params = paligemma.init_params(model_config, jax.random.key(0))
  export.save_npz(path, params)
  return pj.load(path, dtype="float32", tokenizer=setup.DEMO_TOKENIZER)


def _png(pixels):
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, "PNG")
  return buffer.getvalue()


@pytest.fixture(scope="module")
def pixels():
  return np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_every_form_of_an_image_is_the_same_image(tmp_path, pixels):
  (tmp_path / "a.png").write_bytes(_png(pixels))
  forms = [
    pixels,
    jax.numpy.asarray(pixels),
    _png(pixels),
    Image.fromarray(pixels),
    tmp_path / "a.png",
    str(tmp_path / "a.png"),
    np.dstack([pixels, np.zeros((40, 60, 1), np.uint8)]),
    Image.fromarray(np.dstack([pixels, np.full((40, 60, 1), 9, np.uint8)])),
  ]
  expected = image_input.read(pixels, 28)
  assert expected.shape == (28, 28, 3) and expected.dtype == np.uint8
  for form in forms:
    assert np.array_equal(image_input.read(form, 28), expected)
  frames = image_input.read([pixels, _png(pixels)], 28)
  assert np.array_equal(frames, np.stack([expected, expected]))
  floats = expected.astype(np.float32) / 127.5 - 1
  assert np.array_equal(image_input.read(floats, 28), floats)


def _turned(pixels, orientation=6, form="JPEG"):
  """The bytes of an image file that says in its EXIF how to hold it."""
  exif = Image.Exif()
  exif[0x112] = orientation
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, form, quality=95, exif=exif)
  return buffer.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_generate_turns_images_upright_unless_told_not_to(tiny, pixels, form):
  ask = functools.partial(tiny.generate, prompts="caption en", max_new_tokens=4)
  files = [_turned(pixels, orientation, form) for orientation in range(1, 9)]
  stored = ask([_turned(pixels, 1, form)] * 8)
  assert ask(files, exif=False) == stored
  upright = ask(files)
  assert upright == ask(files, exif=True) == ask(files, exif="auto")
  assert upright == ask([image_input.read(file, 28) for file in files])
  assert len({p.logprob for p in upright}) == 8
  with pytest.raises(pj.ConfigError, match=r"^generate.exif is 'no'; expected True, False or"):
    ask(files, exif="no")


def test_a_photo_is_upright_in_every_form(tmp_path, pixels):
  data = _turned(pixels)
  (tmp_path / "a.jpg").write_bytes(data)
  expected = image_input.read(data, 28)
  opened = Image.open(io.BytesIO(data))
  with open(tmp_path / "a.jpg", "rb") as file:
    again = Image.open(tmp_path / "a.jpg")
    for form in (tmp_path / "a.jpg", file, io.BytesIO(data), opened, again):
      assert np.array_equal(image_input.read(form, 28), expected), form
  assert opened.size == (60, 40)  # It is still as it was.
  opened.load()  # Now its pixels are Pillow's own: the same but for the decoder's rounding.
  off = image_input.read(opened, 28).astype(int) - expected
  assert np.abs(off).max() <= 4
  plain = image_input.read(np.asarray(opened), 28).astype(int)
  assert np.abs(plain - expected).max() > 20


def test_a_list_of_levels_and_floats_is_all_floats(pixels):
  levels = image_input.read(pixels, 28)
  floats = levels.astype(np.float32) / 127.5 - 1
  both = image_input.read([levels, floats], 28)
  np.testing.assert_allclose(both, np.stack([floats, floats]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
  ("file", "says"),
  [(io.StringIO("text"), "not in binary mode"), (io.BytesIO(b"<html>"), "no image")],
)
def test_an_open_file_that_is_no_image_is_named(file, says):
  with pytest.raises(pj.DataError, match=says):
    image_input.read(file, 28)


def test_one_image_and_one_text_need_no_lists(tiny, pixels):
  (want,) = tiny.generate([pixels], ["caption en"], max_new_tokens=3)
  assert tiny.generate(pixels, "caption en", max_new_tokens=3) == [want]
  assert tiny.generate(Image.fromarray(pixels), "caption en", max_new_tokens=3) == [want]
  other = np.roll(pixels, 9, axis=0)
  pair = tiny.generate([pixels, other], ["caption en"] * 2, max_new_tokens=3)
  assert tiny.generate([pixels, other], "caption en", max_new_tokens=3) == pair
  both = tiny.generate([pixels] * 2, ["a", "b c"], max_new_tokens=3)
  assert tiny.generate(pixels, ["a", "b c"], max_new_tokens=3) == both


def test_text_without_an_image_is_what_logits_say(tiny):
  (prediction,) = tiny.generate([None], ["caption en"], max_new_tokens=4)
  assert tiny.generate(None, "caption en", max_new_tokens=4) == [prediction]
  prompt = [2, *tiny.tokenizer.encode("caption en"), *tiny.tokenizer.separator_ids]
  text = np.array([[*prompt, *prediction.tokens]])
  mask_ar = np.array([[0] * len(prompt) + [1] * len(prediction.tokens)])
  logits = np.asarray(tiny.logits(None, text, mask_ar))[0]
  assert logits[len(prompt) - 1 : -1].argmax(1).tolist() == list(prediction.tokens)


def test_rows_of_unequal_numbers_of_images_go_together(tiny, pixels):
  other = np.roll(pixels, 9, axis=0)
  images = [pixels, [pixels, other], None, [other], other, [other, pixels]]
  prompts = ["caption en", "what is there?", "caption en", "a", "count dog", "b"]
  whole = tiny.generate(images, prompts, max_new_tokens=3, temperature=1.0)
  for i, prediction in enumerate(whole):
    (alone,) = tiny.generate(
      images[i : i + 1], prompts[i : i + 1], max_new_tokens=3, temperature=1.0, rows=[i]
    )
    assert alone.tokens == prediction.tokens
  frames = np.stack([pixels, other])  # An array of four dims in place of the list.
  assert tiny.generate([frames], ["b"], max_new_tokens=3) == tiny.generate(
    [[pixels, other]], ["b"], max_new_tokens=3
  )


def test_stop_strings_cut_the_answer_and_its_log_probability(tiny, pixels):
  ask = functools.partial(tiny.generate, [pixels], ["caption en"], banned=["<eos>"])
  (free,) = ask(max_new_tokens=12)
  ends = tiny.tokenizer.ends(free.tokens)
  stop = free.text[ends[-1] - 1 :]
  at = free.text.find(stop)
  (cut,) = ask(max_new_tokens=12, stop=["never met", stop])
  num = next(i + 1 for i, end in enumerate(ends) if end >= at + len(stop))
  assert cut.text == free.text[:at] and cut.tokens == free.tokens[:num]
  assert cut.logprob == pytest.approx(sum(free.token_logprobs[:num]), rel=1e-5)
  assert ask(max_new_tokens=12, stop=stop) == [cut]
  over = free.text[: ends[2]]  # Over the borders of tokens.
  assert ends[2] > ends[1] or ends[1] > ends[0]
  (cut,) = ask(max_new_tokens=12, stop=over)
  assert cut.text == "" and len(cut.tokens) <= 3
  with pytest.raises(pj.ConfigError, match=r"stop=\[''\] must be a text, or several, that are not"):
    ask(stop=[""])


def test_temperature_top_k_and_top_p_are_samplers(tiny, pixels):
  ask = functools.partial(tiny.generate, pixels, ["caption en"] * 4, max_new_tokens=4)
  assert ask(temperature=0.7) == ask(sampler="temperature(0.7)")
  assert ask(top_k=5) == ask(sampler="top_k(5, 1)")
  assert ask(top_p=0.6, temperature=1.5) == ask(sampler="nucleus(0.6, 1.5)")
  greedy = ask()
  assert ask(temperature=0) == ask(temperature=0, top_p=0.5) == ask(top_k=1) == greedy
  drawn = ask(temperature=3.0, top_k=50, top_p=0.9)
  assert drawn == ask(sampler="draw(50, 0.9, 3)") and len({p.tokens for p in drawn}) > 1
  for key, wrong in (
    ("top_p", 0),
    ("top_p", 1.5),
    ("top_k", 2.5),
    ("top_k", "5"),
    ("top_k", [5]),
    ("temperature", -1),
    ("temperature", float("nan")),
    ("stop", 3),
    ("repetition_penalty", None),
  ):
    with pytest.raises(pj.ConfigError, match=f"^{key}="):
      ask(**{key: wrong})
  with pytest.raises(pj.ConfigError, match="choose one of the two ways"):
    ask(sampler="top_k(5)", top_p=0.5)


def test_a_penalty_on_repetition_is_that_of_transformers(tiny, pixels):
  """Greedy by hand: logits of seen tokens divided where positive, multiplied where negative."""
  penalty = 1.8
  prompt = [2, *tiny.tokenizer.encode("caption en"), *tiny.tokenizer.separator_ids]
  image, tokens = image_input.read(pixels, 28)[None], []
  for _ in range(6):
    text = np.array([[*prompt, *tokens]])
    mask_ar = np.array([[0] * len(prompt) + [1] * len(tokens)])
    logits = np.asarray(tiny.logits(image, text, mask_ar))[0, -1].copy()
    seen = sorted({*prompt, *tokens})
    logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    tokens.append(int(logits.argmax()))
    if tokens[-1] == _EOS:
      break
  ask = functools.partial(tiny.generate, pixels, "caption en", max_new_tokens=6)
  (prediction,) = ask(repetition_penalty=penalty)
  assert list(prediction.tokens) == tokens
  assert ask(repetition_penalty=1.0) == ask() != [prediction]
  assert ask(repetition_penalty=penalty, temperature=1.0, best_of=2)[0].logprob < 0
  with pytest.raises(pj.ConfigError, match=r"^repetition_penalty=0 must be a number above 0"):
    ask(repetition_penalty=0)
  with pytest.raises(pj.ConfigError, match="choose one"):
    ask(repetition_penalty=1.2, beam_size=2)


@pytest.mark.parametrize(
  ("image", "says"),
  [
    ("nowhere.png", "no such image file"),
    (b"<html>", "no image"),
    (np.zeros((28, 28, 3), np.float32) + 255, "values from 255 to 255"),
    (np.zeros((30, 28, 3), np.float32), "must be"),
    (np.zeros((28, 28, 2), np.uint8), "expected pixels"),
    ([], "empty list"),
  ],
)
def test_an_image_that_is_none_is_named(image, says):
  with pytest.raises(pj.DataError, match=says):
    image_input.read(image, 28)


def test_predictions_come_in_order_whatever_the_batches(tiny, pixels):
  images = [np.roll(pixels, i, axis=1) for i in range(5)]
  prompts = ["caption en", "count dog", "caption en", "detect cat", "what is this?"]
  whole = tiny.generate(images, prompts, max_new_tokens=6)
  pairs = tiny.generate(images, prompts, max_new_tokens=6, batch_size=2)
  assert [p.tokens for p in whole] == [p.tokens for p in pairs]
  assert [p.text for p in whole] == [tiny.tokenizer.decode(p.tokens) for p in whole]
  assert tiny.generate([], []) == []


def test_the_log_probability_of_a_prediction_is_that_of_logits(tiny, pixels):
  (prediction,) = tiny.generate([pixels], ["caption en"], max_new_tokens=5)
  prompt = [2, *tiny.tokenizer.encode("caption en"), *tiny.tokenizer.separator_ids]
  text = np.array([[*prompt, *prediction.tokens]])
  mask_ar = np.array([[0] * len(prompt) + [1] * len(prediction.tokens)])
  image = image_input.read(pixels, 28)[None]
  logprob = np.asarray(jax.nn.log_softmax(tiny.logits(image, text, mask_ar)))[0]
  expected = [logprob[len(prompt) - 1 + i, t] for i, t in enumerate(prediction.tokens)]
  # Cached and uncached attention sum in another order.
  np.testing.assert_allclose(prediction.token_logprobs, expected, rtol=0, atol=1e-4)


def test_prompts_of_other_lengths_compile_nothing_new(tiny, pixels):
  tiny.generate([pixels] * 2, ["a"] * 2, max_new_tokens=6)
  compiled = []

  def listen(event, secs, **_):
    if "compile" in event:
      compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    for prompt in ("b c", "d e f", "count the dogs"):
      tiny.generate([pixels] * 2, [prompt] * 2, max_new_tokens=6)
    assert not compiled
    tiny.generate([pixels] * 2, ["a"] * 2, max_new_tokens=2)
    assert compiled  # The listener does hear of it.
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("kind", ["npz", "native", "hf"])
def test_what_is_saved_loads_as_the_same_model(tiny, tmp_path, kind):
  path = tiny.save(tmp_path / "saved.npz", format=kind)
  again = pj.load(path, dtype="float32", tokenizer=None)
  assert again.config == tiny.config
  for name, array in tiny.params.items():
    assert np.array_equal(array, again.params[name])
  has_tokenizer = kind != "npz"
  assert (again.tokenizer is not None) == has_tokenizer
  if has_tokenizer:
    assert again.tokenizer.whole_bytes == tiny.tokenizer.whole_bytes


def test_saving_in_another_dtype_and_loading_it(tiny, tmp_path):
  path = tiny.save(tmp_path / "half", dtype="bfloat16")
  weights = opening.open_weights(path)
  assert {e.dtype.name for e in weights.entries.values()} == {"bfloat16"}
  again = pj.load(path)
  assert again.config.dtype == "bfloat16"
  assert {p.dtype.name for p in again.params.values()} == {"bfloat16"}
  with pytest.raises(pj.ConfigError, match="Did you mean 'npz'"):
    tiny.save(tmp_path / "x", format="npx")


def test_sizes_that_a_file_cannot_tell_are_overridden():
  path = golden_files.path("bv/tiny2.npz")
  overrides = {"llm.attn_softcap": 5.0, "llm.query_scale": "width_per_head"}
  config = pj.load(path, overrides=overrides).config
  assert (config.llm.attn_softcap, config.llm.query_scale) == (5.0, "width_per_head")
  with pytest.raises(pj.ConfigError, match="Did you mean 'attn_softcap'"):
    pj.load(path, overrides={"llm.atn_softcap": 5.0})


def test_another_resolution_is_loaded_resampled():
  path = golden_files.path("bv/tiny.npz")
  with np.load(golden_files.path("bv/tiny_res84.npz")) as golden:
    pg = pj.load(path, dtype="float32", res=84)
    logits = pg.logits(golden["image"], golden["text"], golden["mask_ar"])
    # Float32 noise of another order of sums, as in the reference's own jit against eager.
    np.testing.assert_allclose(logits, golden["text_logits"], rtol=0, atol=1e-4)


def test_banned_tokens_are_given_as_texts_or_ids(tiny, pixels):
  (free,) = tiny.generate([pixels], ["caption en"], max_new_tokens=3)
  banned = [tiny.tokenizer.piece(free.tokens[0]), free.tokens[1], "<eos>"]
  assert tiny.tokenizer.token_id(banned[0]) == free.tokens[0]
  (without,) = tiny.generate([pixels], ["caption en"], max_new_tokens=3, banned=banned)
  assert not {*free.tokens[:2], _EOS} & {*without.tokens} and len(without.tokens) == 3
  with pytest.raises(pj.ConfigError, match="'two words' is not one token"):
    tiny.generate([pixels], ["caption en"], banned=["two words"])


def test_beams_under_a_constraint(tiny, pixels):
  spec = pj.constraints.Boxes(("cat", "dog"), max_objects=1)
  ask = functools.partial(tiny.generate, [pixels], ["detect"], constraint=spec, max_new_tokens=8)
  (greedy,), (beam,) = ask(), ask(beam_size=3)
  for prediction in (greedy, beam):
    (metrics,) = [pj.score("box_accuracy", [prediction.text], [{"suffix": prediction.text}])]
    assert metrics["invalid"] == 0 and metrics["num_boxes"] == 1
    assert prediction.text.split()[-1] in ("cat", "dog")
  with pytest.raises(pj.ConfigError, match="constraint='boxes' is none"):
    ask(constraint="boxes")


def test_wrong_calls_are_named(tiny, pixels):
  with pytest.raises(pj.ConfigError, match="2 images but 1 prompts"):
    tiny.generate([pixels, pixels], ["a"])
  with pytest.raises(pj.ConfigError, match="Token ids from 2 to 99999"):
    tiny.generate([pixels], [[2, 99999]])
  with pytest.raises(pj.ConfigError, match="no token ids"):
    tiny.generate([pixels], [[]])
  with pytest.raises(pj.ConfigError, match="mask_ar has the shape"):
    tiny.logits(np.zeros((1, 28, 28, 3), np.uint8), [[2, 3]], [[0]])
  with pytest.raises(pj.ConfigError, match="do not belong together"):
    small = variants.get("tiny", res=28, vocab_size=100)
    api.PaliGemma(small, {}, tiny.tokenizer)
