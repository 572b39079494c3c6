"""What an adversary puts into a checkpoint so that transformers runs, or loads, something else: a table of cases.

Each case is a file, what is put into it, and what `convert` does with a base that has it: it refuses the base, or it
leaves the key out and says so. A variant that has it is always refused.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


REFUSED, LEFT_OUT = "refused", "left out"
CONFIG, PROCESSOR, TOKENIZER = "config.json", "processor_config.json", "tokenizer_config.json"
GENERATION, IMAGES, TOKENS = "generation_config.json", "preprocessor_config.json", "special_tokens_map.json"
EVIL_MAP = {"AutoConfig": "evil/repo--evil.Config", "AutoModelForImageTextToText": "evil.Model"}
EVIL_PIPELINE = {"image-text-to-text": {"impl": "evil/repo--evil.Pipeline", "pt": ["AutoModel"], "type": "multimodal"}}
EVIL_AUDIO = {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": "evil/repo"}


@dataclass(frozen=True)
class Case:
    """`put` is merged into `file` at `path`; `named` stands in the error, or in the line about what was left out."""

    file: str
    put: dict[str, Any]
    outcome: str
    named: str
    path: tuple[str, ...] = ()

    def apply(self, folder: Path) -> None:
        file = folder / self.file
        content = json.loads(file.read_text()) if file.is_file() else {}
        place = content
        for name in self.path:
            place[name] = place.get(name) or {}  # transformers 4.57 writes null for some
            place = place[name]
        place.update(self.put)
        file.write_text(json.dumps(content))


def deep(levels: int, content: Any) -> Any:
    """A config within configs."""
    for level in range(levels):
        content = {f"level_{level}": content} if level % 2 else [content]
    return content


CASES = {
    # Code that a pipeline imports.
    "custom_pipelines": Case(CONFIG, {"custom_pipelines": EVIL_PIPELINE}, REFUSED, "evil/repo--evil.Pipeline"),
    "custom_pipelines_in_text": Case(
        CONFIG, {"custom_pipelines": EVIL_PIPELINE}, REFUSED, "custom_pipelines", ("text_config",)
    ),
    # Another file in place of config.json.
    "configuration_files": Case(CONFIG, {"configuration_files": ["config.4.0.0.json"]}, REFUSED, "config.4.0.0.json"),
    "configuration_files_in_generation": Case(
        GENERATION, {"configuration_files": ["config.4.0.0.json"]}, REFUSED, "configuration_files"
    ),
    "fast_tokenizer_files": Case(
        TOKENIZER, {"fast_tokenizer_files": ["tokenizer.4.0.json"]}, REFUSED, "tokenizer.4.0.json"
    ),
    # A model of another repo.
    "audio_tokenizer": Case(PROCESSOR, {"audio_tokenizer": EVIL_AUDIO}, REFUSED, "evil/repo"),
    "audio_tokenizer_in_config": Case(CONFIG, {"audio_tokenizer": EVIL_AUDIO}, REFUSED, "evil/repo"),
    "adapter_base_in_config": Case(CONFIG, {"base_model_name_or_path": "evil/repo"}, REFUSED, "evil/repo"),
    # Classes in Python files, in every file and at any depth.
    "auto_map": Case(CONFIG, {"auto_map": EVIL_MAP}, REFUSED, "evil/repo--evil.Config"),
    "auto_map_in_text": Case(CONFIG, {"auto_map": EVIL_MAP}, REFUSED, "evil.Config", ("text_config",)),
    "auto_map_in_vision": Case(CONFIG, {"auto_map": EVIL_MAP}, REFUSED, "evil.Config", ("vision_config",)),
    "auto_map_in_rope": Case(CONFIG, {"auto_map": EVIL_MAP}, REFUSED, "evil.Config", ("text_config", "rope_scaling")),
    "auto_map_deep": Case(CONFIG, {"parts": deep(7, {"auto_map": EVIL_MAP})}, REFUSED, "evil.Config"),
    "auto_map_deeper": Case(CONFIG, {"id2label": deep(40, {"auto_map": EVIL_MAP})}, REFUSED, "evil.Config"),
    "auto_map_of_auto_maps": Case(CONFIG, {"x": {"auto_map": {"auto_map": ["evil.Config"]}}}, REFUSED, "evil.Config"),
    "auto_map_text": Case(TOKENIZER, {"auto_map": "evil.Tokenizer"}, REFUSED, "evil.Tokenizer"),
    "auto_map_pair": Case(TOKENIZER, {"auto_map": {"AutoTokenizer": [None, "evil.Fast"]}}, REFUSED, "evil.Fast"),
    "auto_map_elsewhere": Case(
        TOKENIZER,
        {"auto_map": {"AutoProcessor": "evil/repo--processing_divprune.DivPruneLlavaProcessor"}},
        REFUSED,
        "evil/repo",
    ),
    "auto_map_in_tokens": Case(TOKENS, {"auto_map": {"AutoTokenizer": "evil.Fast"}}, REFUSED, "evil.Fast"),
    "auto_map_in_processor": Case(PROCESSOR, {"auto_map": {"AutoProcessor": "evil.P"}}, REFUSED, "evil.P"),
    "auto_map_in_image_processor": Case(
        PROCESSOR, {"auto_map": {"AutoImageProcessor": "evil.P"}}, REFUSED, "evil.P", ("image_processor",)
    ),
    "auto_map_in_images": Case(IMAGES, {"auto_map": {"AutoImageProcessor": "evil.P"}}, REFUSED, "evil.P"),
    "auto_map_in_generation": Case(GENERATION, {"auto_map": EVIL_MAP}, REFUSED, "evil.Config"),
    # Kernels of a repo (CVE-2026-4372 for the second).
    "attn": Case(CONFIG, {"attn_implementation": "evil/kernels"}, REFUSED, "evil/kernels"),
    "attn_internal": Case(CONFIG, {"_attn_implementation_internal": "evil/kernels"}, REFUSED, "evil/kernels"),
    "attn_private": Case(CONFIG, {"_attn_implementation": "evil/kernels:forward"}, REFUSED, "evil/kernels"),
    "attn_by_part": Case(CONFIG, {"attn_implementation": {"text_config": "evil/k"}}, REFUSED, "evil/k"),
    "attn_paged": Case(CONFIG, {"attn_implementation": "paged|evil/k"}, REFUSED, "evil/k", ("text_config",)),
    "attn_internal_in_text": Case(
        CONFIG, {"_attn_implementation_internal": "evil/kernels"}, REFUSED, "evil/kernels", ("text_config",)
    ),
    "attn_internal_in_vision": Case(
        CONFIG, {"_attn_implementation_internal": "evil/kernels"}, REFUSED, "evil/kernels", ("vision_config",)
    ),
    "attn_in_a_list": Case(CONFIG, {"attn_implementation": [["evil/kernels"]]}, REFUSED, "evil/kernels"),
    "experts": Case(CONFIG, {"_experts_implementation_internal": "evil/k"}, REFUSED, "evil/k", ("text_config",)),
    "attn_in_generation": Case(GENERATION, {"attn_implementation": "evil/kernels"}, REFUSED, "evil/kernels"),
    "attn_of_torch": Case(CONFIG, {"_attn_implementation_internal": "sdpa"}, LEFT_OUT, "_attn_implementation_internal"),
    # Generating with code from elsewhere.
    "custom_generate": Case(GENERATION, {"custom_generate": "evil/repo"}, REFUSED, "evil/repo"),
    "custom_generate_in_config": Case(CONFIG, {"custom_generate": "evil/repo"}, REFUSED, "evil/repo"),
    "contrastive_search": Case(GENERATION, {"penalty_alpha": 0.6}, REFUSED, "penalty_alpha=0.6"),
    "dola": Case(GENERATION, {"dola_layers": "high"}, REFUSED, "dola_layers='high'"),
    "group_beams": Case(GENERATION, {"num_beam_groups": 2}, REFUSED, "num_beam_groups=2"),
    "constraints": Case(GENERATION, {"force_words_ids": [[1]]}, REFUSED, "force_words_ids"),
    "group_beams_in_config": Case(CONFIG, {"num_beam_groups": 2}, REFUSED, "num_beam_groups=2"),
    "compiler": Case(GENERATION, {"compile_config": {"backend": "evil"}}, LEFT_OUT, "compile_config"),
    "trust_in_generation": Case(GENERATION, {"trust_remote_code": True}, LEFT_OUT, "trust_remote_code"),
    # Classes of transformers that load what LLaVA's do not.
    "tokenizer_class": Case(TOKENIZER, {"tokenizer_class": "TransfoXLTokenizer"}, REFUSED, "TransfoXLTokenizer"),
    "tokenizer_class_foreign": Case(TOKENIZER, {"tokenizer_class": "evil.Tokenizer"}, REFUSED, "evil.Tokenizer"),
    "tokenizer_class_in_config": Case(CONFIG, {"tokenizer_class": "RagTokenizer"}, REFUSED, "RagTokenizer"),
    "tokenizer_class_no_text": Case(TOKENIZER, {"tokenizer_class": ["LlamaTokenizer"]}, REFUSED, "tokenizer_class"),
    "image_processor": Case(
        IMAGES, {"image_processor_type": "OneFormerImageProcessor"}, REFUSED, "OneFormerImageProcessor"
    ),
    "nested_image_processor": Case(
        PROCESSOR, {"image_processor_type": "OneFormerImageProcessor"}, REFUSED, "OneFormer", ("image_processor",)
    ),
    "feature_extractor": Case(IMAGES, {"feature_extractor_type": "evil.Extractor"}, REFUSED, "evil.Extractor"),
    "timm_as_text": Case(CONFIG, {"model_type": "timm_backbone"}, REFUSED, "timm_backbone", ("text_config",)),
    "unknown_text": Case(CONFIG, {"model_type": "evil"}, REFUSED, "evil", ("text_config",)),
    "rag_as_text": Case(CONFIG, {"model_type": "rag"}, REFUSED, "'rag'", ("text_config",)),
    "vision_tower": Case(CONFIG, {"model_type": "timm_wrapper"}, REFUSED, "timm_wrapper", ("vision_config",)),
    "quantiser": Case(CONFIG, {"quantization_config": {"quant_method": "evil"}}, REFUSED, "quantization_config"),
    "quantiser_in_text": Case(
        CONFIG, {"quantization_config": {"quant_method": "x"}}, REFUSED, "quantization_config", ("text_config",)
    ),
    "dtype_of_torch": Case(CONFIG, {"torch_dtype": "load"}, REFUSED, "torch_dtype='load'"),
    # Files and repos elsewhere.
    "name_or_path": Case(CONFIG, {"_name_or_path": "evil/repo"}, LEFT_OUT, "_name_or_path"),
    "name_or_path_in_text": Case(CONFIG, {"name_or_path": "evil/repo"}, LEFT_OUT, "text_config.name", ("text_config",)),
    "tokenizer_file": Case(TOKENIZER, {"tokenizer_file": "/etc/passwd"}, LEFT_OUT, "tokenizer_file"),
    "vocab_file": Case(TOKENIZER, {"vocab_file": "../../vocab.pkl"}, LEFT_OUT, "vocab_file"),
    "gguf_file": Case(TOKENIZER, {"gguf_file": "evil.gguf", "name_or_path": "evil/repo"}, LEFT_OUT, "gguf_file"),
    "vocab_file_in_tokens": Case(TOKENS, {"vocab_file": "/etc/passwd"}, LEFT_OUT, "vocab_file"),
    "init_inputs": Case(TOKENIZER, {"init_inputs": ["/etc/passwd"]}, LEFT_OUT, "init_inputs"),
    "sentencepiece": Case(
        TOKENIZER, {"sp_model_kwargs": {"model_file": "/etc/passwd"}}, LEFT_OUT, "sp_model_kwargs.model_file"
    ),
    "backbone": Case(CONFIG, {"backbone": "evil/repo", "use_timm_backbone": True}, LEFT_OUT, "backbone"),
    "repo_path": Case(IMAGES, {"repo_path": "evil/repo", "class_info_file": "x.json"}, LEFT_OUT, "repo_path"),
    # Attributes that the classes have, and no file should set.
    "parallel_plan": Case(CONFIG, {"base_model_tp_plan": {"layers": "evil"}}, LEFT_OUT, "base_model_tp_plan"),
    "extra_files": Case(CONFIG, {"extra_files": ["evil.bin"]}, LEFT_OUT, "extra_files"),
    "auto_class": Case(CONFIG, {"_auto_class": "evil"}, LEFT_OUT, "_auto_class"),
    "method": Case(CONFIG, {"to_dict": "evil"}, LEFT_OUT, "to_dict"),
    "task_params": Case(CONFIG, {"task_specific_params": {"x": {"_name_or_path": "y"}}}, LEFT_OUT, "task_specific"),
    "tokenizer_in_processor": Case(PROCESSOR, {"tokenizer": {"tokenizer_class": "X"}}, LEFT_OUT, "tokenizer"),
    "unknown_in_image_processor": Case(
        PROCESSOR, {"note": "x"}, LEFT_OUT, "image_processor.note", ("image_processor",)
    ),
    "unknown_in_vision": Case(CONFIG, {"note": {"x": [1]}}, LEFT_OUT, "vision_config.note", ("vision_config",)),
    "unknown": Case(CONFIG, {"something_else": {"kept": [1, None]}}, LEFT_OUT, "config.json: something_else"),
}
