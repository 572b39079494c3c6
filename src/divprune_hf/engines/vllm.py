"""The plugin of vLLM, which it finds by the entry point `vllm.general_plugins`.

With it vLLM serves a variant without `--trust-remote-code`, and bad budgets are answered with our sentences.
"""

# Loaded by vLLM when it meets a variant, and not before.
MODEL = "divprune_hf.engines.vllm_model:TransformersMultiModalForCausalLM"


def register() -> None:
    """Register the families with vLLM; importing this package has registered them with transformers.

    vLLM runs it in each of its processes, and maybe several times in one.
    """
    from vllm import ModelRegistry  # type: ignore[import-not-found]  # vLLM is not installed where types are checked

    from divprune_hf.checkpoints.families import supported_families

    for family in supported_families():
        ModelRegistry.register_model(f"{family.names.prefix}ForConditionalGeneration", MODEL)
