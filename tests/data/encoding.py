"""Texts to encoded examples, as `data.examples` does it for a row."""

from paligemma_jax.data import text_encoding


def suffix_ids(tokenizer, suffix):
  """The ids of an answer: the suffix, EOS."""
  return text_encoding.answer_of(tokenizer, suffix)[0]


def train(tokenizer, prefix, suffix, **limits):
  """One training example; see `tokens.lay_out_train`."""
  question, answer = (
    text_encoding.prefix_ids(tokenizer, prefix),
    text_encoding.answer_of(tokenizer, suffix),
  )
  return text_encoding.lay_out_train(question, *answer, **limits)


def prompt(tokenizer, prefix, suffix="", **limits):
  """One prompt with the start of an answer; see `tokens.lay_out_prompt`."""
  question, begun = text_encoding.prefix_ids(tokenizer, prefix), tokenizer.encode(suffix)
  return text_encoding.lay_out_prompt(question, begun, **limits)
