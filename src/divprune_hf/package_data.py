"""Places of the files that come with the package: inside an installed wheel, beside `src` in a clone."""

from pathlib import Path


def model_cards():
    """The folder with pocket-llava and the card template."""
    package = Path(__file__).resolve().parent
    installed, clone = package / "model_cards", package.parents[1] / "model_cards"
    return installed if installed.is_dir() else clone


def pocket_llava():
    """The folder of the trained base that ships with the package."""
    return model_cards() / "pocket-llava"
