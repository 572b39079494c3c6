"""Engines of other projects that run our models: what each of them has to be told."""
