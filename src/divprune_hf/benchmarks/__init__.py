"""Benchmarks of time and memory: selection, generation, loading, and the parts of a prefill."""
