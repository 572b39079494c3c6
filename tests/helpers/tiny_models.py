"""Tiny random LLaVA checkpoints: every vision tower and language model that the real ones come with."""

import json

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    Dinov2Config,
    LlamaConfig,
    LlamaTokenizerFast,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from divprune_hf.checkpoints.families import supported_families


IMAGE_SIZE, PATCH_SIZE = 24, 4
NUM_IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
VOCAB_SIZE = 99
WIDTH = 32
IMAGE_TOKEN_ID = 4
VIDEO_TOKEN_ID = 5
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }} : "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }} {% else %}<{{ part['type'] }}> {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)

TOWER_CONFIGS = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig, "dinov2": Dinov2Config}
LANGUAGE_CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
# SigLIP's tower has no CLS token, so its features are taken in full.
STRATEGIES = {"clip": "default", "siglip": "full", "dinov2": "default"}


# Stock classes: config, model, processor, image processor.
FAMILY_CLASSES = {
    "llava": (LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, CLIPImageProcessor),
    "llava_next": (LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor, LlavaNextImageProcessor),
    "llava_next_video": (
        LlavaNextVideoConfig,
        LlavaNextVideoForConditionalGeneration,
        LlavaNextVideoProcessor,
        LlavaNextImageProcessor,
    ),
    "llava_onevision": (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionProcessor,
        LlavaOnevisionImageProcessor,
    ),
}
FAMILY_CLASSES = {family.base_model_type: FAMILY_CLASSES[family.base_model_type] for family in supported_families()}
GRID = {"image_grid_pinpoints": [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]}
FAMILY_ARGUMENTS = {
    "llava": {},
    "llava_next": GRID,
    "llava_next_video": {**GRID, "video_token_index": VIDEO_TOKEN_ID},
    # Large pictures come out smaller than their crops: 72 of their tokens are interpolated from more.
    "llava_onevision": {**GRID, "video_token_index": VIDEO_TOKEN_ID, "vision_aspect_ratio": "anyres_max_2"},
}


def tiny_config(tower="clip", language="llama", family="llava", head_dim=None, num_vision_layers=2):
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    vision_sizes = {**sizes, "num_hidden_layers": num_vision_layers}
    vision_config = TOWER_CONFIGS[tower](**vision_sizes, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE)
    text_config = LANGUAGE_CONFIGS[language](
        **sizes,
        **({} if head_dim is None else {"head_dim": head_dim}),
        num_key_value_heads=2,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        # Wide weights: a model that answers one token to everything would make every test of equal tokens pass.
        initializer_range=0.3,
    )
    return FAMILY_CLASSES[family][0](
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=IMAGE_TOKEN_ID,
        vision_feature_select_strategy=STRATEGIES[tower],
        **FAMILY_ARGUMENTS[family],
    )


def tiny_model(tower="clip", language="llama", family="llava", seed=0, head_dim=None):
    torch.manual_seed(seed)
    model = FAMILY_CLASSES[family][1](tiny_config(tower, language, family, head_dim)).eval()
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.normal_(std=0.5)
    return model


def tiny_tokenizer(family="llava"):
    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>", *(f"w{i}" for i in range(VOCAB_SIZE - 6))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    # transformers 4.57 lets some processors have no other; 5 would make it read bytes instead of words.
    names = getattr(FAMILY_CLASSES[family][2], "tokenizer_class", None) or ()
    tokenizer_class = LlamaTokenizerFast if "LlamaTokenizerFast" in names else PreTrainedTokenizerFast
    return tokenizer_class(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", "<video>"],
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def tiny_video_processor(family="llava_next_video"):
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    if family == "llava_onevision":
        from transformers import LlavaOnevisionVideoProcessor  # needs torchvision

        return LlavaOnevisionVideoProcessor(size=size)
    from transformers import LlavaNextVideoVideoProcessor

    return LlavaNextVideoVideoProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)


def tiny_processor(tower="clip", family="llava"):
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor_class, image_processor_class = FAMILY_CLASSES[family][2:]
    if family == "llava_onevision":
        return processor_class(
            image_processor_class(size=size, **GRID),
            tiny_tokenizer(family),
            tiny_video_processor(family),
            num_image_tokens=NUM_IMAGE_TOKENS + (tower != "siglip"),
            vision_feature_select_strategy=STRATEGIES[tower],
            vision_aspect_ratio="anyres_max_2",
            chat_template=CHAT_TEMPLATE,
        )
    if tower == "siglip" and family == "llava":
        image_processor = SiglipImageProcessor(size=size)
    else:
        grid = {} if family == "llava" else GRID
        image_processor = image_processor_class(size={"shortest_edge": IMAGE_SIZE}, crop_size=size, **grid)
    return processor_class(
        **({"video_processor": tiny_video_processor()} if family == "llava_next_video" else {}),
        image_processor=image_processor,
        tokenizer=tiny_tokenizer(family),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy=STRATEGIES[tower],
        num_additional_image_tokens=0 if tower == "siglip" else 1,
        chat_template=CHAT_TEMPLATE,
    )


def llava_hf_keys(state_dict):
    """The names that the llava-hf checkpoints on the Hub use for the same weights."""
    prefixes = {
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "model.vision_tower.": "vision_tower.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.image_newline": "image_newline",
    }
    renamed = {}
    for name, weight in state_dict.items():
        prefix = next(prefix for prefix in prefixes if name.startswith(prefix))
        renamed[prefixes[prefix] + name.removeprefix(prefix)] = weight
    return renamed


def save_tiny_base(
    folder, tower="clip", language="llama", family="llava", layout="llava_hf", num_shards=1, **shape_and_seed
):
    """Write a stock checkpoint and return its model.

    `layout` names the keys of the weights: `"llava_hf"` as on the Hub, `"module"` as the modules are called.
    """
    model = tiny_model(tower, language, family, **shape_and_seed)
    model.config.architectures = [FAMILY_CLASSES[family][1].__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    weights = llava_hf_keys(weights) if layout == "llava_hf" else weights
    if num_shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        shards = [f"model-{i + 1:05}-of-{num_shards:05}.safetensors" for i in range(num_shards)]
        weight_map = {name: shards[i % num_shards] for i, name in enumerate(weights)}
        for shard in shards:
            part = {name: weights[name] for name in weights if weight_map[name] == shard}
            save_file(part, folder / shard, metadata={"format": "pt"})
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    tiny_processor(tower, family).save_pretrained(folder)
    return model


def save_tiny_base_for_pictures(folder, family="llava_next_video", **shape_and_seed):
    """Write a stock base that takes videos without the settings of its video processor, which torchvision makes."""
    model = tiny_model(family=family, **shape_and_seed)
    _, head_class, processor_class, image_processor_class = FAMILY_CLASSES[family]
    model.config.architectures = [head_class.__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    weights = {name: weight.contiguous() for name, weight in llava_hf_keys(model.state_dict()).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tiny_tokenizer(family).save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    if family == "llava_onevision":
        image_processor = image_processor_class(size=size, **GRID)
        settings = {"num_image_tokens": NUM_IMAGE_TOKENS + 1, "vision_aspect_ratio": "anyres_max_2"}
    else:
        image_processor = image_processor_class(size={"shortest_edge": IMAGE_SIZE}, crop_size=size, **GRID)
        settings = {"patch_size": PATCH_SIZE, "num_additional_image_tokens": 1}
    image_processor.save_pretrained(folder)
    named = {"processor_class": processor_class.__name__, "vision_feature_select_strategy": "default"}
    (folder / "processor_config.json").write_text(json.dumps({**named, **settings}))
