"""Entry points for inference engines: what an engine finds and loads by itself once this package is installed."""
