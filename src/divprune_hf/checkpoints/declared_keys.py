"""Keys that the JSON files of a checkpoint may hold: an allow-list, made of what the classes that read them declare.

transformers sets unknown keys as attributes, and some of its code then acts on them. So a key is kept only if a class
of the family declares it, or if a table here knows it as data.
"""

import inspect
from collections.abc import Iterable

import transformers
from transformers import CONFIG_MAPPING, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from divprune_hf.checkpoints.families import Family


# Keys of a model config that the installed classes need not declare, with the reason why they are data.
KNOWN_CONFIG_KEYS = {
    # Written by every release, read by name.
    "what a config is of": ["architectures", "model_type", "transformers_version", "dtype", "torch_dtype"],
    # Attributes of the base class, which files name where they are not the default.
    "outputs": ["output_attentions", "output_hidden_states", "return_dict", "torchscript", "use_bfloat16"],
    # transformers 4.57 declares these for every config, 5 for none: old files spell them all out.
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
    # 4.57 reads the first two, 5 the third.
    "positions": ["rope_theta", "rope_scaling", "rope_parameters"],
    # 4.57 reads it without declaring it.
    "SigLIP's head": ["vision_use_head"],
    # Sizes that llava-hf's files repeat where no class reads them.
    "repeated sizes": ["vocab_size", "projection_dim"],
    # llava-hf's files, from releases that had a loss of their own.
    "LLaVA": ["ignore_index", "use_image_newline_parameter"],
    # Both names of the same ids and of a list that every release writes for DINOv2.
    "placeholders": ["image_token_id", "image_token_index", "video_token_id", "video_token_index"],
    "DINOv2": ["out_features", "out_indices", "stage_names"],
}
# Declared by 4.57, and yet left out: a pipeline updates the config by what is in it, whatever that is.
UNJUDGED_CONFIG_KEYS = {"task_specific_params"}
# What some release declares of generating and another does not.
KNOWN_GENERATION_KEYS = {
    *("_from_model_config", "transformers_version", "return_legacy_cache", "max_cache_len", "top_h"),
    *("assistant_ensemble_weight", "speculation_type", "use_mtp", "trust_remote_code"),
}
# Declared, and yet left out: these name compilers and caches by settings that nobody has judged.
UNJUDGED_GENERATION_KEYS = {"compile_config", "continuous_batching_config", "cache_config", "trust_remote_code"}
# Ways of generating for which transformers loads code from a repo of its own choice, and their values that do not.
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
# Settings of SentencePiece that are no paths.
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
# Written by `convert` alone.
OUR_CONFIG_KEYS = {"auto_map", "divprune_base", "divprune_config", "divprune_tested_transformers"}


def spelt(stems: Iterable[str], *endings: str) -> set[str]:
    return {stem + ending for stem in stems for ending in ("", *endings)}


# Classes that may be named: those that llava-hf's checkpoints come with, under all names that releases gave them.
IMAGE_TYPES = {
    *spelt([f"{name}ImageProcessor" for name in ("CLIP", "Siglip", "Bit", "Llava", "LlavaNext")], "Fast", "Pil"),
    *("CLIPFeatureExtractor", "LlavaNextVideoImageProcessor"),
}
VIDEO_TYPES = {"LlavaNextVideoVideoProcessor"}
TOKENIZER_CLASSES = {
    *spelt(
        [f"{name}Tokenizer" for name in ("Llama", "CodeLlama", "Qwen2", "GPT2", "GPTNeoX", "Gemma", "PreTrained")],
        "Fast",
    ),
    *("TokenizersBackend", "SentencePieceBackend", "PythonBackend"),
}
DTYPES = {"auto", "bfloat16", "float16", "float32", "float64"}
NAMED_CLASSES = {
    # Looked up among all names of torch.
    "dtype": DTYPES,
    "torch_dtype": DTYPES,
    "image_processor_type": IMAGE_TYPES,
    "feature_extractor_type": IMAGE_TYPES,
    "video_processor_type": VIDEO_TYPES,
    "tokenizer_class": TOKENIZER_CLASSES,
}


def config_keys(model_type: str) -> set[str]:
    """Return the keys that a config of this type may hold, besides those that configs nest."""
    known = {key for keys in KNOWN_CONFIG_KEYS.values() for key in keys}
    return (declared_by(CONFIG_MAPPING[model_type]) | known) - UNJUDGED_CONFIG_KEYS


def declared_by(config_class: type) -> set[str]:
    """Return what the `__init__` of a class and its parents take by name, and its other names for the same."""
    declared = set(getattr(config_class, "attribute_map", {}) or {})
    for parent in config_class.__mro__:
        if "__init__" in vars(parent):
            parameters = inspect.signature(parent.__init__).parameters.values()
            declared |= {parameter.name for parameter in parameters if parameter.kind in (1, 3)}
    return declared - {"self", "name_or_path"}


def text_model_types() -> set[str]:
    """Return the types that a language model may be of: those whose class answers with text, and needs no other."""
    return set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) & set(CONFIG_MAPPING.keys())


def generation_keys() -> set[str]:
    declared = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    return (declared | KNOWN_GENERATION_KEYS) - UNJUDGED_GENERATION_KEYS


def processor_keys(family: Family) -> set[str]:
    """Return the keys of a processor's own config; image and video processors nested in it have theirs."""
    stock = getattr(transformers, family.processor_class.__name__.removeprefix("DivPrune"))
    return (declared_by(family.processor_class) | declared_by(stock) | {"processor_class"}) - {
        *("tokenizer", "image_processor", "video_processor", "divprune_config"),
    }
