"""The version of the package, which is also the tag of what it publishes."""

__version__ = "0.1.0"
