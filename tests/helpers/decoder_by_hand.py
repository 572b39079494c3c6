"""A decoder loop written by hand, which drops visual tokens in front of one of its layers.

One prompt at a time, everything read anew for each token, masks made here: nothing is shared with the code under test.
"""

from dataclasses import dataclass

import torch

from divprune_hf import select_diverse_tokens
from divprune_hf.remote_code.token_selection import feature_list
from tests.helpers.tiny_models import FAMILY_CLASSES, IMAGE_TOKEN_ID, VIDEO_TOKEN_ID


@dataclass(frozen=True)
class Decoder:
    """The stock model of a checkpoint, run layer by layer."""

    stock: torch.nn.Module
    layer: int

    @torch.no_grad()
    def embed(self, inputs):
        """Embeddings of one prompt, (S, width), and the slots of each of its images and videos."""
        embeds = self.stock.get_input_embeddings()(inputs["input_ids"][0]).clone()
        pools = []
        for kind, token_id in (("image", IMAGE_TOKEN_ID), ("video", VIDEO_TOKEN_ID)):
            name = "pixel_values" if kind == "image" else "pixel_values_videos"
            if name not in inputs:
                continue
            sizes = {"image_sizes": inputs["image_sizes"]} if kind == "image" and "image_sizes" in inputs else {}
            features = feature_list(getattr(self.stock.model, f"get_{kind}_features")(inputs[name], **sizes))
            slots = (inputs["input_ids"][0] == token_id).nonzero()[:, 0]
            embeds[slots] = torch.cat(features)
            counts = inputs[f"num_{kind}_tokens_kept"].tolist()
            pools += list(zip(slots.split([len(tokens) for tokens in features]), counts, strict=True))
        return embeds, pools

    @torch.no_grad()
    def logits(self, embeds, pools):
        """Logits of the tokens that are left after the last layer, (S - dropped, vocabulary), and their slots."""
        model = self.stock.model.language_model
        hidden, slots = embeds.unsqueeze(0), torch.arange(len(embeds))
        for index, decoder_layer in enumerate(model.layers):
            if index == self.layer:
                dropped = set()
                for pool, num_kept in pools:
                    picks = select_diverse_tokens(hidden[0, pool].double(), num_kept)
                    dropped |= set(pool.tolist()) - set(pool[picks].tolist())
                stays = torch.tensor([slot for slot in range(len(embeds)) if slot not in dropped])
                hidden, slots = hidden[:, stays], stays
            mask = torch.full((len(slots), len(slots)), torch.finfo(torch.float32).min).triu(1)
            rotary = model.rotary_emb(hidden, slots.unsqueeze(0))
            hidden = decoder_layer(
                hidden, attention_mask=mask[None, None], position_embeddings=rotary, position_ids=slots.unsqueeze(0)
            )
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return self.stock.lm_head(model.norm(hidden))[0], slots

    @torch.no_grad()
    def greedy(self, inputs, num_tokens=6):
        embeds, pools = self.embed(inputs)
        tokens = []
        for _ in range(num_tokens):
            logits = self.logits(embeds, pools)[0][-1]
            logits[[2, IMAGE_TOKEN_ID, VIDEO_TOKEN_ID]] = -torch.inf  # the end, and what `greedy` suppresses
            tokens.append(int(logits.argmax()))
            new = self.stock.get_input_embeddings()(torch.tensor(tokens[-1:]))
            embeds = torch.cat([embeds, new])
        return tokens


def decoder_of(checkpoint, layer, family="llava"):
    stock = FAMILY_CLASSES[family][1].from_pretrained(checkpoint.base, dtype=torch.float32).eval()
    return Decoder(stock, layer)
