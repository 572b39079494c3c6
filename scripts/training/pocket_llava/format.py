"""The stock parts of pocket-llava: tokenizer, configuration, and a folder both transformers 4.57 and 5 can load."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import LlavaConfig, LlavaForConditionalGeneration

from scripts.training.pocket_llava.scenes import CELL_GRID, IMAGE_SIZE, PATCH_GRID, PATCH_SIZE, PLURAL, SINGULAR
from scripts.training.pocket_llava.tower import PIXEL_MEAN, PIXEL_STD


NUM_IMAGE_TOKENS = PATCH_GRID**2
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
BOS, EOS, PAD, IMAGE = (SPECIAL_TOKENS.index(token) for token in ("<s>", "</s>", "<pad>", "<image>"))
WORDS = [
    "user",
    "assistant",
    ":",
    "?",
    ".",
    ",",
    "!",
    "yes",
    "no",
    "nothing",
    "is",
    "are",
    "there",
    "a",
    "an",
    "the",
    "in",
    "what",
    "how",
    "many",
    "objects",
]
MAX_NUMBER = 16
# A place is one word to the model: the tokenizer reads "row 2 column 3" as "row_2_column_3".
PLACES = [f"row {row} column {column}" for row in range(1, CELL_GRID + 1) for column in range(1, CELL_GRID + 1)]
CELL_WORDS = [place.replace(" ", "_") for place in PLACES]

# The pieces of llava-hf's template: "USER: <image>\nIs there a bag? ASSISTANT:".
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}{{ ' ' }}{% else %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_tokenizer() -> Tokenizer:
    """One token a word, lower case, punctuation apart, `<s>` in front."""
    words = WORDS + [word for phrase in SINGULAR + PLURAL for word in phrase.split()]
    words += CELL_WORDS + [str(number) for number in range(MAX_NUMBER + 1)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(SPECIAL_TOKENS + words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    joined = [normalizers.Replace(place, word) for place, word in zip(PLACES, CELL_WORDS, strict=True)]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *joined])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[:?.,!]"), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
    )
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return tokenizer


def model_config(vocabulary_size: int) -> dict:
    """config.json in the layout of transformers 4."""
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "ignore_index": -100,
        "image_token_index": IMAGE,
        "image_seq_length": NUM_IMAGE_TOKENS,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocabulary_size,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "hidden_act": "silu",
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e7,
            "initializer_range": 0.04,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "initializer_range": 0.02,
            "projection_dim": 128,
            "torch_dtype": "float32",
        },
    }


def build_model(vocabulary_size: int) -> LlavaForConditionalGeneration:
    """A fresh model in float32 with random weights."""
    fields = model_config(vocabulary_size)
    fields.pop("torch_dtype")
    return LlavaForConditionalGeneration(LlavaConfig(**fields)).float()


def stock_name(name: str) -> str:
    """The name a weight has in llava-hf repositories, from the name it has in the running model."""
    name = name.removeprefix("model.")
    if name.startswith("lm_head"):
        return f"language_model.{name}"
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        return name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return name


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def export_model(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Write the checkpoint: beside `folder` first, then file by file in its place, so readers see whole files."""
    fresh = folder.with_name(folder.name + ".new")
    fresh.mkdir(parents=True, exist_ok=True)
    weights = {stock_name(name): weight.detach().clone().contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, fresh / "model.safetensors", metadata={"format": "pt"})
    tokenizer = build_tokenizer()
    _write_json(fresh / "config.json", model_config(tokenizer.get_vocab_size()))
    ids = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    _write_json(fresh / "generation_config.json", {"_from_model_config": True, **ids})
    tokenizer.save(str(fresh / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    _write_json(fresh / "special_tokens_map.json", {**named, "additional_special_tokens": ["<image>"]})
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "LlavaProcessor",
        "added_tokens_decoder": {str(i): {"content": token, **flags} for i, token in enumerate(SPECIAL_TOKENS)},
        **named,
        "additional_special_tokens": ["<image>"],
        "image_token": "<image>",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 1024,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }
    _write_json(fresh / "tokenizer_config.json", tokenizer_config)
    pictures = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": IMAGE_SIZE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [PIXEL_MEAN] * 3,
        "image_std": [PIXEL_STD] * 3,
    }
    _write_json(fresh / "preprocessor_config.json", pictures)
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": PATCH_SIZE,
        "vision_feature_select_strategy": "default",
    }
    _write_json(fresh / "processor_config.json", processor)
    (fresh / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    # safetensors makes its files private.
    (fresh / "model.safetensors").chmod(0o644)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(fresh.iterdir()):
        os.replace(path, folder / path.name)
    shutil.rmtree(fresh)


def load_exported(folder: Path, model: LlavaForConditionalGeneration) -> None:
    """Fill a running model with the weights of an exported folder."""
    from safetensors.torch import load_file

    stored = load_file(folder / "model.safetensors")
    model.load_state_dict({name: torch.as_tensor(stored[stock_name(name)]) for name in model.state_dict()})
