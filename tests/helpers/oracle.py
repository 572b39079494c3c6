"""The stock language model fed the kept features by hand: what a pruned model must answer, bit for bit.

The features come from the stock model, the picks from the reference in `max_min_fast.py` on each image alone, and
the placeholders are filled row by row, so that nothing is shared with the seam.
"""

import torch
from torch.nn import functional

from divprune_hf import select_diverse_tokens
from divprune_hf.remote_code.token_selection import feature_list
from tests.helpers.tiny_answers import greedy
from tests.helpers.tiny_models import FAMILY_CLASSES, IMAGE_TOKEN_ID, VIDEO_TOKEN_ID


VISION = ("pixel_values", "image_sizes", "pixel_values_videos")
TOKENS = {
    "pixel_values": ("num_image_tokens_kept", IMAGE_TOKEN_ID),
    "pixel_values_videos": ("num_video_tokens_kept", VIDEO_TOKEN_ID),
}


def uneven_rows(case, processor):
    """The prompts of `case` as one batch with another budget for each row: 5, 7, ... tokens, padded on the left."""
    rows = []
    for i, text in enumerate(case.texts):
        budget = {"num_tokens": 5 + 2 * i, **({"video_num_tokens": 8 - 2 * i} if "videos" in case.media else {})}
        media = {name: values[i : i + 1] for name, values in case.media.items()}
        rows.append(processor(**media, text=text, return_tensors="pt", **budget))
    longest = max(row["input_ids"].shape[1] for row in rows)
    most_views = max(row["pixel_values"].shape[1] for row in rows)
    batch = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in ("input_ids", "attention_mask"):
            values = [functional.pad(value, (longest - value.shape[1], 0)) for value in values]
        elif name == "pixel_values" and values[0].dim() == 5:
            values = [functional.pad(v, (0, 0) * 3 + (0, most_views - v.shape[1])) for v in values]
        batch[name] = torch.cat(values)
    return batch


def stock_of(case):
    """The stock model of the base, on the same weights."""
    stock_class = FAMILY_CLASSES[case.family][1]
    return stock_class.from_pretrained(case.checkpoint.base, dtype=torch.float32).eval()


@torch.no_grad()
def fed_by_hand(stock, inputs):
    """The arguments of the stock model: each row's placeholders replaced by its own image's kept features."""
    embeds = stock.get_input_embeddings()(inputs["input_ids"]).clone()
    for pixels, (counts, token_id) in TOKENS.items():
        if pixels not in inputs:
            continue
        if pixels == "pixel_values":
            sizes = {"image_sizes": inputs["image_sizes"]} if "image_sizes" in inputs else {}
            features = feature_list(stock.model.get_image_features(inputs[pixels], **sizes))
        else:
            features = feature_list(stock.model.get_video_features(inputs[pixels]))
        for row, (tokens, num_kept) in enumerate(zip(features, inputs[counts].tolist(), strict=True)):
            kept = tokens[select_diverse_tokens(tokens, num_kept)]
            embeds[row, inputs["input_ids"][row] == token_id] = kept
    return {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}


def first_logits(model, inputs):
    """The logits of the first new token, through `generate`."""
    outputs = model.generate(
        **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    return outputs.logits[0]


def assert_answers_as_the_oracle(case, model, processor):
    """Logits of `forward` and of `generate`, difference 0, and greedy tokens."""
    inputs, stock = uneven_rows(case, processor), stock_of(case)
    fed = fed_by_hand(stock, inputs)
    with torch.no_grad():
        logits, expected = model(**inputs).logits, stock(**fed).logits
    assert torch.equal(logits, expected)
    assert torch.equal(first_logits(model, inputs), first_logits(stock, fed))
    prompt = {"input_ids": inputs["input_ids"]}
    expected_tokens = stock.generate(
        **fed, max_new_tokens=6, min_new_tokens=6, do_sample=False, suppress_tokens=[IMAGE_TOKEN_ID, VIDEO_TOKEN_ID]
    )
    assert greedy(model, {**inputs, **prompt}) == expected_tokens.tolist()
