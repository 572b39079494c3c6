"""The code that ships in every variant."""

from importlib import resources


def shipped_code() -> dict[str, str]:
    """The text of every file of `remote_code`, by name."""
    room = resources.files("divprune_hf.remote_code")
    names = [entry.name for entry in room.iterdir() if entry.name.endswith(".py") and entry.name != "__init__.py"]
    return {name: (room / name).read_text(encoding="utf-8") for name in sorted(names)}
