# SPDX-License-Identifier: Apache-2.0
"""Config of LLaVA-OneVision with pruned visual tokens."""

from typing import Any

from transformers import LlavaOnevisionConfig

from .configuration_divprune import DivPruneConfigMixin
from .family_names import FAMILY_NAMES
from .transformers_surface import check_family_release


# isort: split
# transformers 4.57 ships only what this file imports: tests/remote_code/test_direct_imports.py writes
from .budget import check_ratio  # noqa: F401
from .saved_code import save_code  # noqa: F401
from .selectors import Images  # noqa: F401
from .settings import Setting  # noqa: F401


check_family_release("llava_onevision", FAMILY_NAMES["llava_onevision"].release)


class DivPruneLlavaOnevisionConfig(DivPruneConfigMixin, LlavaOnevisionConfig):  # type: ignore[misc]  # arguments come by name
    """Config of LLaVA-OneVision with pruned visual tokens.

    Modifications:
    - `divprune_config` (`DivPruneConfig` or `dict`, *optional*): the budget of an image, whose base view, crops and
      newline tokens are one pool, and that of a video, which holds for all its frames together.
    """

    model_type = "divprune_llava_onevision"
    takes_videos = True

    def __init__(
        self, vision_config: Any = None, text_config: Any = None, divprune_config: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(vision_config=vision_config, text_config=text_config, **kwargs)
        self._hold(divprune_config, "llava_onevision")
