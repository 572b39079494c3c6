"""vLLM's Transformers backend with our budgets: imported by vLLM alone, when it meets a variant.

Only the parts that vLLM keeps for each model are extended: its processing info, its multimodal processor and the
context that both hold. The model is the stock backend.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from divprune_hf.engines.vllm_budgets import check_arguments, check_start, with_budget_of_request


try:
    from vllm.model_executor.models import transformers as backend  # type: ignore[import-not-found]
    from vllm.multimodal import MULTIMODAL_REGISTRY  # type: ignore[import-not-found]
    from vllm.multimodal.processing import InputProcessingContext  # type: ignore[import-not-found]

    Model: Any = backend.TransformersMultiModalForCausalLM
    Info: Any = backend.MultiModalProcessingInfo
    Processor: Any = backend.MultiModalProcessor
    DummyInputs: Any = backend.MultiModalDummyInputsBuilder
except (ImportError, AttributeError) as error:
    raise ImportError(
        f"The vLLM plugin of divprune_hf does not know this vLLM ({error}). docs/serving.md names the tested ones. "
        "Without the plugin (VLLM_PLUGINS='') a variant is served by --trust-remote-code --model-impl transformers."
    ) from error


class BudgetContext(InputProcessingContext):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """The context that calls the processor.

    Modifications:
    - a budget of a request replaces that of the start also where it has the other form;
    - what a processor says of bad input is what the user reads, and not a dump of the input.
    """

    def get_merged_mm_kwargs(self, kwargs: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Merge the arguments of the start and of a request."""
        return with_budget_of_request(super().get_merged_mm_kwargs(kwargs, **options), kwargs)

    def call_hf_processor(self, *args: Any, **kwargs: Any) -> Any:
        """Call the processor; its own sentence about bad input is raised in place of vLLM's."""
        try:
            return super().call_hf_processor(*args, **kwargs)
        except ValueError as error:
            if isinstance(error.__cause__, (ValueError, ImportError)):
                raise ValueError(str(error.__cause__)) from error
            raise


class BudgetInfo(Info):
    """The processing info.

    Modifications:
    - its context is a `BudgetContext`.
    """

    def __init__(self, ctx: Any) -> None:
        super().__init__(BudgetContext(**{field.name: getattr(ctx, field.name) for field in dataclasses.fields(ctx)}))


class BudgetProcessor(Processor):
    """The multimodal processor.

    Modifications:
    - it is not made for settings of the start that have no effect;
    - the arguments of a request are checked before it is looked for in a cache, which takes some for none;
    - the counts of a prompt with pictures and videos both go to the model.
    """

    def __init__(self, info: Any, *args: Any, **kwargs: Any) -> None:
        check_start(info.get_hf_processor(), info.get_hf_config(), info.ctx.get_mm_config().mm_processor_kwargs)
        super().__init__(info, *args, **kwargs)

    def apply(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Process a prompt and its pictures."""
        check_arguments(self.info.get_hf_processor(), inputs.hf_processor_mm_kwargs)
        return super().apply(inputs, *args, **kwargs)

    def _get_modality_field_names(self, modality: str) -> set[str]:
        """Return the names of the processor's outputs that belong to pictures, or to videos."""
        return {*super()._get_modality_field_names(modality), f"num_{modality}_tokens_kept"}


@MULTIMODAL_REGISTRY.register_processor(BudgetProcessor, info=BudgetInfo, dummy_inputs=DummyInputs)
class TransformersMultiModalForCausalLM(Model):
    """vLLM's Transformers backend, under the name by which vLLM tells that it is one.

    Modifications:
    - its processing info and its multimodal processor are those of this file.
    """
