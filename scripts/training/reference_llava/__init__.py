"""The reference model: a LLaVA with 576 visual tokens from pretrained parts, and its training."""
