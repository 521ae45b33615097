"""The model: SigLIP ViT and Gemma 1 or 2 under the names of the published checkpoints."""
