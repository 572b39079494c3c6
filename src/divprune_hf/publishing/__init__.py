"""The way from a base checkpoint to a variant folder, and on to a model repo."""
