# SPDX-License-Identifier: Apache-2.0
"""The code of a saved model: all files of this folder, not only those that one family's classes import."""

import shutil
from os import PathLike
from pathlib import Path
from typing import Any


def save_code(saved: Any, folder: str | PathLike) -> None:
    """Copy every Python file of this folder beside what `save_pretrained` has written.

    transformers copies only the files that it finds by following imports. A folder with all files can be compared with
    the package file by file, whatever the family.

    Args:
        saved: the config or processor; its code is saved where transformers saves code for it.
        folder: where it was saved.
    """
    if getattr(saved, "_auto_class", None) is None or not Path(folder).is_dir():
        return
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if file.name != "__init__.py":
            shutil.copyfile(file, Path(folder) / file.name)


def auto_map_of_own_folder(auto_map: dict[str, str]) -> dict[str, str]:
    """Return an `auto_map` whose classes are those beside it: transformers notes the repo that it loaded them from."""
    return {auto_class: reference.split("--")[-1] for auto_class, reference in auto_map.items()}
