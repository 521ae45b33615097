"""Texts to encoded examples, as `data.examples` does it for a row."""

from paligemma_jax.data import tokens


def suffix_ids(tokenizer, suffix):
  """The ids of an answer: the suffix, EOS."""
  return tokens.answer_of(tokenizer, suffix)[0]


def train(tokenizer, prefix, suffix, **limits):
  """One training example; see `tokens.lay_out_train`."""
  question, answer = tokens.prefix_ids(tokenizer, prefix), tokens.answer_of(tokenizer, suffix)
  return tokens.lay_out_train(question, *answer, **limits)


def prompt(tokenizer, prefix, suffix="", **limits):
  """One prompt with the start of an answer; see `tokens.lay_out_prompt`."""
  question, begun = tokens.prefix_ids(tokenizer, prefix), tokenizer.encode(suffix)
  return tokens.lay_out_prompt(question, begun, **limits)
