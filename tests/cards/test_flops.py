"""The FLOP model reproduces the figures that the paper reports."""

from statistics import mean

import pytest
from transformers import LlamaConfig

from divprune_hf import keep_count
from divprune_hf.cards.flops import prompt_flops, tokens_for_flops


SMALL = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32)
LARGE = LlamaConfig(hidden_size=5120, intermediate_size=13824, num_hidden_layers=40)
# Text tokens per question of the paper's 11 image sets and 5 video sets, and LLaVA-1.6's visual tokens per image.
IMAGE_TEXTS = [15, 15, 23, 83, 25, 113, 15, 39, 21, 91, 57]
VIDEO_TEXTS = [28, 63, 21, 38, 196]
ANY_RESOLUTION = [2225, 1922, 2239, 1927, 2108, 1882, 2292, 2249, 2250, 1598, 2116]


@pytest.mark.parametrize(
    ("text_config", "texts", "visual", "ratio", "expected"),
    [
        (SMALL, IMAGE_TEXTS, [576] * 11, 0.098, ("3.2280", "0.5122", "15.63")),
        (LARGE, IMAGE_TEXTS, [576] * 11, 0.098, ("6.2813", "1.0020", "15.71")),
        (SMALL, IMAGE_TEXTS, ANY_RESOLUTION, 0.098, ("11.8489", "1.2659", "10.80")),
        (SMALL, VIDEO_TEXTS, [8 * 144] * 5, 0.1, ("6.5386", "0.9371", "14.10")),
    ],
    ids=["LLaVA-1.5-7B", "LLaVA-1.5-13B", "LLaVA-1.6-7B", "LLaVA-NeXT-Video-7B"],
)
def test_the_papers_means(text_config, texts, visual, ratio, expected):
    """TFLOPs of the original, of the pruned model, and their ratio in percent, averaged over the paper's data sets."""
    full = [prompt_flops(text_config, text, m) for text, m in zip(texts, visual)]
    pruned = [
        prompt_flops(text_config, text, m, keep_count(m, retention_ratio=ratio)) for text, m in zip(texts, visual)
    ]
    percent = mean(100 * kept / everything for kept, everything in zip(pruned, full))
    assert (f"{mean(full) / 1e12:.4f}", f"{mean(pruned) / 1e12:.4f}", f"{percent:.2f}") == expected


@pytest.mark.parametrize("num_kept", [577, -1])
def test_impossible_counts_are_refused(num_kept):
    with pytest.raises(ValueError, match=f"num_kept={num_kept}, expected 0 to 576"):
        prompt_flops(SMALL, 15, 576, num_kept)


def test_layers_in_front_of_the_pruned_ones_see_everything():
    one = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=1)
    full, pruned = prompt_flops(one, 40, 576), prompt_flops(one, 40, 576, 56)
    assert prompt_flops(SMALL, 40, 576, 56, layer=3) == 3 * full + 29 * pruned
    assert prompt_flops(SMALL, 40, 576, 576, layer=3) == prompt_flops(SMALL, 40, 576)


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("share", [0.15, 0.5, 1])
def test_a_share_of_the_flops_pays_for_as_many_tokens_as_fit(layer, share):
    num_kept = tokens_for_flops(SMALL, 40, 576, share, layer=layer)
    affordable = share * prompt_flops(SMALL, 40, 576)
    assert prompt_flops(SMALL, 40, 576, num_kept, layer=layer) <= affordable
    assert num_kept == 576 or prompt_flops(SMALL, 40, 576, num_kept + 1, layer=layer) > affordable


@pytest.mark.parametrize("share", [0, 1.2, -0.1])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="of the FLOPs, expected more than 0 % and at most 100 %"):
        tokens_for_flops(SMALL, 40, 576, share)
