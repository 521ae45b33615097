"""The sizes of the models that are measured. Needs no JAX: the baseline's side reads it too."""

from __future__ import annotations

from paligemma_jax.models import variants

MODELS = {
  "tiny": variants.get("tiny", res=28, dtype="float32"),
  # 159 M parameters, 132 M of them the embedding table: small layers under the real vocabulary.
  "mid": variants.ModelConfig(
    img=variants.Vit(width=256, depth=6, mlp_dim=1024, num_heads=4),
    llm=variants.Gemma(width=512, depth=6, mlp_dim=2048, num_heads=8, num_kv_heads=1, head_dim=64),
    res=224,
  ),
  # PaliGemma 3B at 224 px, for a GPU.
  "3b": variants.get("paligemma_3b", res=224),
}
