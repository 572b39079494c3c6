# SPDX-License-Identifier: Apache-2.0
"""Names of weights in checkpoints of the stock families, for classes that transformers does not know."""

from .transformers_surface import CONVERSION, check_methods, missing


def read_base_checkpoints(model_class: type, stock_class: type) -> None:
    """Let `model_class` load checkpoints of the stock class that it is made from.

    transformers 5 renames the keys of stock checkpoints while loading, by a table that it does not apply to classes
    outside of it: the language model would be left random, with a warning. transformers 4.57 inherits its table.

    Raises:
        ImportError: a release of transformers that has no such table for the stock class.
    """
    try:
        from transformers import conversion_mapping
    except ImportError:
        return
    check_methods(conversion_mapping, CONVERSION)
    stock_type = stock_class.config_class.model_type  # type: ignore[attr-defined]
    for name in (stock_class.__name__, stock_type):
        renamings = conversion_mapping.get_checkpoint_conversion_mapping(name)
        if renamings is not None:
            conversion_mapping.register_checkpoint_conversion_mapping(model_class.__name__, renamings, overwrite=True)
            return
    raise missing(f"the renamings of {stock_class.__name__}'s weights in its conversion mapping")
