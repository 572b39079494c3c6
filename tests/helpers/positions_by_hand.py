"""Positions of a pruned prompt written down token by token, and the stock language model that is fed them.

Nothing is shared with the code under test but the picks, which other tests compare with their reference.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from divprune_hf.remote_code.token_selection import feature_list
from tests.helpers.tiny_models import FAMILY_CLASSES, IMAGE_TOKEN_ID, VIDEO_TOKEN_ID


IMAGE_INPUTS = ("pixel_values", "image_sizes", "batch_num_images")


@dataclass(frozen=True)
class ByHand:
    """The stock model, what its language model is fed, each token's position, and that of the next, (B, 1)."""

    stock: torch.nn.Module
    fed: dict
    positions: torch.Tensor
    following: torch.Tensor

    @torch.no_grad()
    def logits(self):
        """Logits of the stock language model, which has no cache."""
        hidden = self.stock.model.language_model(**self.fed, position_ids=self.positions, use_cache=False)[0]
        return self.stock.lm_head(hidden)

    def greedy(self, num_tokens=6):
        """Greedy tokens; everything is read anew for each."""
        answers, reading = [], self
        for _ in range(num_tokens):
            logits = reading.logits()[:, -1]
            logits[:, [2, IMAGE_TOKEN_ID, VIDEO_TOKEN_ID]] = -torch.inf  # the end, and what `greedy` suppresses
            answers.append(logits.argmax(-1))
            embeds = self.stock.get_input_embeddings()(answers[-1]).unsqueeze(1).detach()
            fed = {
                "inputs_embeds": torch.cat([reading.fed["inputs_embeds"], embeds], 1),
                "attention_mask": functional.pad(reading.fed["attention_mask"], (0, 1), value=1),
            }
            positions = torch.cat([reading.positions, reading.following], 1)
            reading = ByHand(self.stock, fed, positions, reading.following + 1)
        return torch.stack(answers, 1).tolist()


@torch.no_grad()
def by_hand(checkpoint, model, inputs, family="llava"):
    """Feed the stock model of a checkpoint what `model` keeps of a prompt, each token at its own position."""
    stock = FAMILY_CLASSES[family][1].from_pretrained(checkpoint.base, dtype=torch.float32).eval()
    embeds = stock.get_input_embeddings()(inputs["input_ids"]).clone()
    inputs_of = {}
    if "pixel_values" in inputs:
        pixels = {name: inputs[name] for name in IMAGE_INPUTS if name in inputs}
        picks = model.select_image_tokens(**pixels, num_image_tokens_kept=inputs["num_image_tokens_kept"])
        features = feature_list(stock.model.get_image_features(**pixels))
        inputs_of[IMAGE_TOKEN_ID] = list(zip(picks, features, strict=True))
    if "pixel_values_videos" in inputs:
        pixels = inputs["pixel_values_videos"]
        picks = model.select_video_tokens(pixels, num_video_tokens_kept=inputs["num_video_tokens_kept"])
        features = feature_list(stock.model.get_video_features(pixels))
        inputs_of[VIDEO_TOKEN_ID] = list(zip(picks, features, strict=True))
    for token_id, found in inputs_of.items():
        embeds[inputs["input_ids"] == token_id] = torch.cat([features[picks] for picks, features in found])
    sizes = {token_id: [(p, len(features)) for p, features in found] for token_id, found in inputs_of.items()}
    positions, following = original_positions(inputs["input_ids"], inputs["attention_mask"], sizes)
    fed = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
    return ByHand(stock, fed, positions, following)


def original_positions(token_ids, mask, sizes):
    """The positions of a batch's tokens, (B, S), where each kept token keeps its own, and that of the next, (B, 1).

    `sizes` holds, by the id of a placeholder, the (picks, M) of each image or video in the order of the prompt.
    """
    waiting = {token_id: list(found) for token_id, found in sizes.items()}
    rows = []
    for ids, attended in zip(token_ids.tolist(), mask.tolist()):
        row, position, slot = [], 0, 0
        while slot < len(ids):
            if not attended[slot]:
                row.append(0)
                slot += 1
            elif ids[slot] in waiting:
                picks, num_available = waiting[ids[slot]].pop(0)
                row += [position + pick for pick in picks.tolist()]
                position += num_available
                slot += len(picks)
            else:
                row.append(position)
                position += 1
                slot += 1
        rows.append((row, position))
    assert not any(waiting.values())
    return torch.tensor([row for row, _ in rows]), torch.tensor([[following] for _, following in rows])
