"""Loading tiny variants, and what they and the stock models answer."""

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.helpers.tiny_models import IMAGE_TOKEN_ID, VIDEO_TOKEN_ID, WIDTH


LOADING = """
from transformers import AutoModelForImageTextToText, AutoProcessor
model, info = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True, output_loading_info=True)
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
print(type(model).__module__, type(processor).__module__, len(info["missing_keys"]), len(info["unexpected_keys"]))
"""


def load(checkpoint, **kwargs):
    model = AutoModelForImageTextToText.from_pretrained(checkpoint.variant, dtype=torch.float32, **kwargs).eval()
    return model, AutoProcessor.from_pretrained(checkpoint.variant)


def fed_with(stock, inputs, kept_features):
    """The `inputs_embeds` of a prompt with `kept_features` (a list of tensors) written over its placeholders."""
    embeds = stock.get_input_embeddings()(inputs["input_ids"]).detach().clone()
    embeds[inputs["input_ids"] == IMAGE_TOKEN_ID] = torch.cat(kept_features)
    return {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}


def features_in(outputs, modality="image"):
    """The features that a model's output carries, (num_kept, width), whatever this release calls them.

    Before transformers 5.24 they are one tensor, which may be flat; since then they are in the encoder's output.
    """
    encoder_outputs = getattr(outputs, f"{modality}_outputs", None)
    features = (
        getattr(outputs, f"{modality}_hidden_states") if encoder_outputs is None else encoder_outputs.pooler_output
    )
    features = features if isinstance(features, torch.Tensor) else torch.cat(list(features))
    return features.reshape(-1, WIDTH)


def greedy(model, inputs, **kwargs):
    # A random model may well say `<image>`, which without a cache would then ask for one more.
    kwargs.setdefault("suppress_tokens", [IMAGE_TOKEN_ID, VIDEO_TOKEN_ID])
    tokens = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False, **kwargs)
    return tokens[:, inputs["input_ids"].shape[1] :].tolist()


def assert_loads_as_remote_code(variant, run_isolated):
    """Model and processor come from the folder's own code, with every weight and none too many."""
    model, processor, missing, unexpected = run_isolated(LOADING, variant).split()
    assert model.startswith("transformers_modules.") and processor.startswith("transformers_modules.")
    assert (missing, unexpected) == ("0", "0")
