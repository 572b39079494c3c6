"""The folder of pocket-llava, the trained base that ships with the package."""

from pathlib import Path


def pocket_llava() -> Path:
    """Return the folder of the checkpoint: inside an installed wheel, or in `model_cards/` of a clone."""
    package = Path(__file__).resolve().parents[1]
    installed, clone = package / "pocket-llava", package.parents[1] / "model_cards" / "pocket-llava"
    return installed if installed.is_dir() else clone
