"""The allow-list of keys in the JSON files of a checkpoint.

transformers sets unknown keys as attributes, and some of its code then acts on them. A key is therefore kept only if a
class of the family declares it, or if a table in this file lists it as data.
"""

import inspect
from collections.abc import Iterable

import transformers
from transformers import CONFIG_MAPPING, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from divprune_hf.checkpoints.families import Family


# Keys of a model config that are data although the installed classes may not declare them, by reason.
KNOWN_CONFIG_KEYS = {
    # Every release writes these, and reads them by name.
    "what a config is of": ["architectures", "model_type", "transformers_version", "dtype", "torch_dtype"],
    # Attributes of the base class. Files name them where they differ from the default.
    "outputs": ["output_attentions", "output_hidden_states", "return_dict", "torchscript", "use_bfloat16"],
    # transformers 4.57 declares these for every config, transformers 5 for none. Old files list all of them.
    "4.57, kind of model": [
        *("add_cross_attention", "cross_attention_hidden_size", "finetuning_task", "is_decoder", "is_encoder_decoder"),
        *("id2label", "label2id", "num_labels", "problem_type", "prefix", "pruned_heads", "tf_legacy_loss"),
        *("tie_encoder_decoder", "tie_word_embeddings", "chunk_size_feed_forward", "tokenizer_class"),
    ],
    "4.57, token ids": ["bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id", "sep_token_id"],
    "4.57, generating": [
        *("bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping"),
        *("encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id"),
        *("forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size"),
        *("num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "remove_invalid_values"),
        *("repetition_penalty", "return_dict_in_generate", "suppress_tokens", "temperature", "top_k", "top_p"),
        *("typical_p", "use_cache"),
    ],
    # transformers 4.57 reads the first two, transformers 5 the third.
    "positions": ["rope_theta", "rope_scaling", "rope_parameters"],
    # transformers 4.57 reads it without declaring it.
    "SigLIP's head": ["vision_use_head"],
    # llava-hf's files repeat these sizes; no class reads them there.
    "repeated sizes": ["vocab_size", "projection_dim"],
    # In llava-hf's files, from releases whose LLaVA classes computed their own loss.
    "LLaVA": ["ignore_index", "use_image_newline_parameter"],
    # Both names of each placeholder id.
    "placeholders": ["image_token_id", "image_token_index", "video_token_id", "video_token_index"],
    # Every release writes these for DINOv2.
    "DINOv2": ["out_features", "out_indices", "stage_names"],
}
# Left out although 4.57 declares it: a pipeline copies its content into the config unchecked.
UNJUDGED_CONFIG_KEYS = {"task_specific_params"}
# Generation settings that only some releases declare.
KNOWN_GENERATION_KEYS = {
    *("_from_model_config", "transformers_version", "return_legacy_cache", "max_cache_len", "top_h"),
    *("assistant_ensemble_weight", "speculation_type", "use_mtp", "trust_remote_code"),
}
# Left out although declared: they configure compilers and caches, and have not been reviewed.
UNJUDGED_GENERATION_KEYS = {"compile_config", "continuous_batching_config", "cache_config", "trust_remote_code"}
# Settings for which transformers downloads generation code from the Hub, and the values that do not cause it.
GENERATION_FROM_THE_HUB = {
    "penalty_alpha": (None, 0, 0.0),
    "dola_layers": (None,),
    "constraints": (None,),
    "force_words_ids": (None,),
    "num_beam_groups": (None, 1),
    "diversity_penalty": (None, 0, 0.0),
}
TOKENIZER_KEYS = {
    *("add_bos_token", "add_eos_token", "add_prefix_space", "added_tokens_decoder", "additional_special_tokens"),
    *("backend", "chat_template", "clean_up_tokenization", "clean_up_tokenization_spaces", "do_lower_case", "errors"),
    *("extra_special_tokens", "from_slow", "is_local", "legacy", "local_files_only", "max_len", "max_length"),
    *("model_input_names", "model_max_length", "model_specific_special_tokens", "pad_to_multiple_of"),
    *("pad_token_type_id", "padding_side", "processor_class", "sp_model_kwargs", "spaces_between_special_tokens"),
    *("split_special_tokens", "stride", "tokenizer_class", "truncation_side", "truncation_strategy"),
    *("use_default_system_prompt",),
}
# Settings of SentencePiece that are not paths.
SENTENCEPIECE_KEYS = {"enable_sampling", "nbest_size", "alpha"}
IMAGE_KEYS = {
    *("aspect_ratio_setting", "crop_size", "data_format", "default_to_square", "device", "disable_grouping"),
    *("do_center_crop", "do_convert_rgb", "do_normalize", "do_pad", "do_rescale", "do_resize"),
    *("feature_extractor_type", "image_grid_pinpoints", "image_mean", "image_processor_type", "image_seq_length"),
    *("image_std", "input_data_format", "pad_size", "processor_class", "resample", "rescale_factor"),
    *("return_tensors", "size", "size_divisor", "_valid_processor_keys"),
}
VIDEO_KEYS = IMAGE_KEYS | {
    *("do_sample_frames", "fps", "num_frames", "return_metadata", "video_metadata", "video_processor_type"),
}
# Only `convert` writes these.
OUR_CONFIG_KEYS = {"auto_map", "divprune_base", "divprune_config", "divprune_tested_transformers"}


def spelt(stems: Iterable[str], *endings: str) -> set[str]:
    """Return every stem, bare and with each ending."""
    return {stem + ending for stem in stems for ending in ("", *endings)}


# The processor and tokenizer classes that llava-hf's checkpoints name, under every name that releases gave them.
IMAGE_TYPES = {
    *spelt(
        [f"{name}ImageProcessor" for name in ("CLIP", "Siglip", "Bit", "Llava", "LlavaNext", "LlavaOnevision")],
        "Fast",
        "Pil",
    ),
    *("CLIPFeatureExtractor", "LlavaNextVideoImageProcessor"),
}
VIDEO_TYPES = {"LlavaNextVideoVideoProcessor", "LlavaOnevisionVideoProcessor"}
TOKENIZER_CLASSES = {
    *spelt(
        [f"{name}Tokenizer" for name in ("Llama", "CodeLlama", "Qwen2", "GPT2", "GPTNeoX", "Gemma", "PreTrained")],
        "Fast",
    ),
    *("TokenizersBackend", "SentencePieceBackend", "PythonBackend"),
}
DTYPES = {"auto", "bfloat16", "float16", "float32", "float64"}
NAMED_CLASSES = {
    # transformers looks these up among all names of torch.
    "dtype": DTYPES,
    "torch_dtype": DTYPES,
    "image_processor_type": IMAGE_TYPES,
    "feature_extractor_type": IMAGE_TYPES,
    "video_processor_type": VIDEO_TYPES,
    "tokenizer_class": TOKENIZER_CLASSES,
}


def config_keys(model_type: str) -> set[str]:
    """Return the keys that a config of this model type may hold, without `text_config` and `vision_config`."""
    known = {key for keys in KNOWN_CONFIG_KEYS.values() for key in keys}
    return (declared_by(CONFIG_MAPPING[model_type]) | known) - UNJUDGED_CONFIG_KEYS


def declared_by(config_class: type) -> set[str]:
    """Return the named parameters of `__init__` in a class and its parents, and the aliases in `attribute_map`."""
    declared = set(getattr(config_class, "attribute_map", {}) or {})
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for parent in config_class.__mro__:
        if "__init__" in vars(parent):
            parameters = inspect.signature(vars(parent)["__init__"]).parameters.values()
            declared |= {parameter.name for parameter in parameters if parameter.kind in named}
    return declared - {"self", "name_or_path"}


def text_model_types() -> set[str]:
    """Return the model types that a language model may have: those with a causal LM class and a config class."""
    return set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) & set(CONFIG_MAPPING.keys())


def generation_keys() -> set[str]:
    """Return the keys that `generation_config.json` may hold."""
    declared = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    return (declared | KNOWN_GENERATION_KEYS) - UNJUDGED_GENERATION_KEYS


def processor_keys(family: Family) -> set[str]:
    """Return the keys of a processor's own config, without those of the image and video processors nested in it."""
    stock = getattr(transformers, family.processor_class.__name__.removeprefix("DivPrune"))
    return (declared_by(family.processor_class) | declared_by(stock) | {"processor_class"}) - {
        *("tokenizer", "image_processor", "video_processor", "divprune_config"),
    }
