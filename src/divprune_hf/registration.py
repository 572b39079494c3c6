"""Our classes among the Auto classes of transformers: after `import divprune_hf` no trust flag is needed.

The Auto classes take seconds to import. So nothing is imported for them here: classes are registered as soon as the
module of their Auto class has been imported, by whoever needs it.
"""

import importlib.util
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ClassVar


CONFIGS = "transformers.models.auto.configuration_auto"
PROCESSORS = "transformers.models.auto.processing_auto"
MODELS = "transformers.models.auto.modeling_auto"
# Modules that need one another: while one of them is half imported, nothing is registered.
WATCHED = ("transformers.", "divprune_hf.remote_code.", "divprune_hf.checkpoints.families")

# 4.57 has the first of the last two, 5 the second.
HEAD_AUTO_CLASSES = ("AutoModelForImageTextToText", "AutoModelForVision2Seq", "AutoModelForMultimodalLM")


class Registration(threading.local):
    """A finder of modules that finds none itself, but registers our classes once those that they need are imported.

    That is behind the outermost import of this thread that leads to one of the Auto classes. The finder goes when all
    three steps are done: configs, processors, models.
    """

    steps: ClassVar[dict[str, Callable[[], None]]] = {}

    def __init__(self) -> None:
        self.searched: set[str] = set()
        self.running = 0

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Let the other finders find a module; where it matters to us, register behind its execution."""
        if name in self.searched or not name.startswith(WATCHED):
            return None
        self.searched.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searched.remove(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                self.running += 1
                try:
                    execute(module)
                finally:
                    self.running -= 1
                self.register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]  # of this one loader object
        return spec

    def register(self) -> None:
        """Make the steps whose Auto classes are there, unless something is half imported."""
        for module in list(self.steps):
            if not self.running and module in sys.modules and module in self.steps:
                self.steps.pop(module)()  # popped first: importing our classes may lead here again
        if not self.steps and self in sys.meta_path:
            sys.meta_path.remove(self)


def register_configs() -> None:
    """Register the config of every family; `save_pretrained` ships the code of what is registered."""
    from transformers import AutoConfig

    from divprune_hf.checkpoints.families import supported_families

    for family in supported_families():
        AutoConfig.register(family.config_class.model_type, family.config_class, exist_ok=True)
        family.config_class.register_for_auto_class()


def register_processors() -> None:
    """Register the processor of every family."""
    from transformers import AutoProcessor

    from divprune_hf.checkpoints.families import supported_families

    for family in supported_families():
        AutoProcessor.register(family.config_class, family.processor_class, exist_ok=True)
        family.processor_class.register_for_auto_class()


def register_models() -> None:
    """Register the model of every family, without and with its language modelling head."""
    import transformers

    from divprune_hf.checkpoints.families import supported_families

    for family in supported_families():
        transformers.AutoModel.register(family.config_class, family.model_class, exist_ok=True)
        for name in HEAD_AUTO_CLASSES:
            auto_class = getattr(transformers, name, None)
            if auto_class is not None:
                auto_class.register(family.config_class, family.head_class, exist_ok=True)
        family.model_class.register_for_auto_class("AutoModel")
        family.head_class.register_for_auto_class("AutoModelForImageTextToText")


def register_auto_classes() -> None:
    """Register every family, now or as soon as an Auto class of transformers is imported."""
    registration = Registration()
    registration.steps.update({CONFIGS: register_configs, PROCESSORS: register_processors, MODELS: register_models})
    sys.meta_path.insert(0, registration)
    registration.register()
