"""Many questions about one scene in one sequence, the way pocket-llava is trained and validated.

A sequence is one scene followed by several questions. The questions do not see each other: each attends to the scene
and to itself, and its positions start where the scene ends, as if it had been asked alone.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional

from scripts.training.pocket_llava.format import CELL_WORDS, EOS, PAD, build_tokenizer
from scripts.training.pocket_llava.scenes import (
    CELL_GRID,
    NOTHING,
    NUM_CLASSES,
    Scenes,
    counting_text,
    object_text,
    position_text,
    presence_text,
)
from scripts.training.pocket_llava.tower import tower_features


# Per scene: presence questions (half "yes"), questions about filled and empty cells, counting questions.
NUM_PRESENCE = 8
NUM_FILLED = 4
NUM_EMPTY = 2
NUM_COUNTING = 2
MAX_COUNT = 16
KINDS = ("presence", "position", "counting")


class QuestionTable:
    """Every possible question with its answer as token ids, ready to be looked up for a batch of scenes."""

    def __init__(self):
        self.tokenizer = build_tokenizer()
        cells, topics = range(CELL_GRID**2), range(NUM_CLASSES + 1)
        self.presence = self._table(
            [[(presence_text(t), answer) for answer in ("no", "yes")] for t in range(NUM_CLASSES)]
        )
        self.position = self._table([[(position_text(cell), object_text(t)) for t in topics] for cell in cells])
        self.counting = self._table([[(counting_text(t), str(n)) for n in range(MAX_COUNT + 1)] for t in topics])
        self.start = torch.tensor(self.encode("USER:", add_special_tokens=True))
        nouns = [object_text(topic).split()[-1] for topic in topics]
        self.nouns = torch.tensor([self.tokenizer.token_to_id(noun) for noun in nouns])
        self.cells = torch.tensor([self.tokenizer.token_to_id(word) for word in CELL_WORDS])
        self.colon = self.tokenizer.token_to_id(":")

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def _table(self, pairs: list[list[tuple[str, str]]]) -> torch.Tensor:
        """Token ids (questions, answers, length), padded on the right."""
        rows = [[self.encode(f"{q} ASSISTANT: {a}") + [EOS] for q, a in group] for group in pairs]
        length = max(len(ids) for group in rows for ids in group)
        return torch.tensor([[ids + [PAD] * (length - len(ids)) for ids in group] for group in rows])

    def draw(self, scenes: Scenes, generator: torch.Generator) -> list[torch.Tensor]:
        """Random questions about each scene: three tensors (batch, number, length) of token ids."""
        batch = len(scenes)
        counts = functional.one_hot(scenes.cells, NUM_CLASSES + 1).sum(1)
        present = (counts[:, :NUM_CLASSES] > 0).float()
        yes = torch.multinomial(present, NUM_PRESENCE // 2, True, generator=generator)
        noise = torch.rand(batch, NUM_CLASSES, generator=generator)
        # Scenes of up to eight objects may lack fewer than four classes; then an absent class is asked about twice.
        absent = (1 - present) + 1e-9 * noise
        no = torch.multinomial(absent, NUM_PRESENCE // 2, True, generator=generator)
        topics = torch.cat([yes, no], dim=1)
        presence = self.presence[topics, present.gather(1, topics).long()]

        filled = (scenes.cells != NOTHING).float()
        held = torch.multinomial(filled, NUM_FILLED, True, generator=generator)
        empty = torch.multinomial(1 - filled, NUM_EMPTY, True, generator=generator)
        cells = torch.cat([held, empty], dim=1)
        position = self.position[cells, scenes.cells.gather(1, cells)]

        asked = torch.randint(NUM_CLASSES, (batch, NUM_COUNTING), generator=generator)
        asked[:, 0] = NOTHING
        half = torch.rand(batch, generator=generator) < 0.5
        asked[:, 1] = torch.where(half, yes[:, 0], asked[:, 1])
        counts[:, NOTHING] = filled.sum(1).long()
        counting = self.counting[asked, counts.gather(1, asked)]
        return [presence, position, counting]


def packed_layout(lengths: list[int], prefix: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask (questions, all) of what question tokens see, and positions (1, all), after a scene of `prefix` tokens."""
    segment = torch.cat([torch.zeros(prefix)] + [torch.full((n,), i + 1.0) for i, n in enumerate(lengths)])
    positions = torch.cat([torch.arange(prefix)] + [prefix + torch.arange(n) for n in lengths])
    causal = torch.ones(segment.numel(), segment.numel(), dtype=torch.bool).tril()
    mask = causal & ((segment[:, None] == segment[None]) | (segment[None] == 0))
    return mask[prefix:], positions[None]


def packed_hidden(llama: nn.Module, inputs: torch.Tensor, prefix: int, lengths: list[int]) -> torch.Tensor:
    """Last hidden states (batch, questions, hidden) of the question tokens in `inputs` (batch, all, hidden).

    The same sums as the stock Llama with a four-dimensional mask, in two thirds of the time: scene tokens attend
    among themselves, only question tokens need the mask, and the last layer skips the scene tokens' own states.
    """
    config = llama.config
    mask, positions = packed_layout(lengths, prefix)
    cos, sin = (wave[:, None] for wave in llama.rotary_emb(inputs, positions))
    shared = config.num_attention_heads // config.num_key_value_heads

    def normed(hidden: torch.Tensor, norm: nn.Module) -> torch.Tensor:
        return functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)

    def heads(states: torch.Tensor, begin: int = 0, rotate: bool = True) -> torch.Tensor:
        states = states.unflatten(-1, (-1, config.head_dim)).transpose(1, 2)
        if not rotate:
            return states
        first, second = states.chunk(2, dim=-1)
        return states * cos[:, :, begin:] + torch.cat([-second, first], dim=-1) * sin[:, :, begin:]

    hidden = inputs
    for number, layer in enumerate(llama.layers):
        # The last layer only has to answer the question tokens.
        begin = prefix if number == config.num_hidden_layers - 1 else 0
        attention, states = layer.self_attn, normed(hidden, layer.input_layernorm)
        queries = heads(attention.q_proj(states[:, begin:]), begin)
        keys = heads(attention.k_proj(states)).repeat_interleave(shared, 1)
        values = heads(attention.v_proj(states), rotate=False).repeat_interleave(shared, 1)
        asked = functional.scaled_dot_product_attention(queries[:, :, prefix - begin :], keys, values, attn_mask=mask)
        if begin == 0:
            scene = [states[:, :, :prefix] for states in (queries, keys, values)]
            seen = functional.scaled_dot_product_attention(*scene, is_causal=True)
            asked = torch.cat([seen, asked], dim=2)
        hidden = hidden[:, begin:] + attention.o_proj(asked.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(normed(hidden, layer.post_attention_layernorm))
    return normed(hidden, llama.norm)


def packed_logits(model: nn.Module, projected: torch.Tensor, parts: list[torch.Tensor], table: QuestionTable):
    """Word scores (batch, question tokens, words) for questions after the visual tokens (batch, any, hidden)."""
    llama = model.model.language_model
    start = llama.embed_tokens(table.start).expand(projected.shape[0], -1, -1)
    words = llama.embed_tokens(torch.cat([ids.flatten(1) for ids in parts], dim=1))
    lengths = [ids.shape[2] for ids in parts for _ in range(ids.shape[1])]
    prefix = start.shape[1] + projected.shape[1]
    return model.lm_head(packed_hidden(llama, torch.cat([start, projected, words], dim=1), prefix, lengths))


def answers_of(logits: torch.Tensor, parts: list[torch.Tensor], colon: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """For each kind of question: scores and ids of the next word, and where that word belongs to the answer."""
    start = 0
    for ids in parts:
        _, number, length = ids.shape
        mine = logits[:, start : start + number * length].unflatten(1, (number, length))[:, :, :-1]
        start += number * length
        # The only colon of a question is the one after "ASSISTANT".
        answered = ((ids == colon).cumsum(-1)[:, :, :-1] > 0) & (ids[:, :, 1:] != PAD)
        yield mine, ids[:, :, 1:], answered


def answer_losses(logits: torch.Tensor, parts: list[torch.Tensor], colon: int) -> tuple[list, list]:
    """Cross-entropy of the answers, and of early answers, for each kind of question.

    Early answers: the three words before the colon are to name the answer's last word too. Nobody reads that when the
    model is used, but it tells the word that is asked about what to look for, long before the colon learns to ask it.
    """
    losses, early = [], []
    for scores, ids, answered in answers_of(logits, parts, colon):
        losses.append(functional.cross_entropy(scores[answered], ids[answered]))
        closing = (ids == EOS).int().argmax(-1)
        key = ids.gather(2, closing[..., None] - 1)
        # The first scores that count stand at the colon.
        first = answered.int().argmax(-1, keepdim=True)
        before = first - torch.arange(1, 4)
        hinted = scores.gather(2, before[..., None].expand(-1, -1, -1, scores.shape[3]))
        early.append(functional.cross_entropy(hinted.flatten(0, 2), key.expand(-1, -1, 3).flatten()))
    return losses, early


@torch.no_grad()
def packed_accuracy(
    model: nn.Module,
    table: QuestionTable,
    scenes: Scenes,
    seed: int,
    select: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> dict[str, float]:
    """Share of wholly right answers per kind of question, the same questions for the same seed.

    `select` may give the indices (batch, kept) of the visual tokens that stay.
    """
    generator = torch.Generator().manual_seed(seed)
    right = {kind: [] for kind in KINDS}
    for begin in range(0, len(scenes), 32):
        part = Scenes(*(getattr(scenes, name)[begin : begin + 32] for name in ("images", "cells", "patches")))
        parts = table.draw(part, generator)
        projected = model.model.multi_modal_projector(tower_features(model.model.vision_tower, part.images))
        if select is not None:
            kept = select(projected)
            projected = projected.gather(1, kept[..., None].expand(-1, -1, projected.shape[2]))
        logits = packed_logits(model, projected, parts, table)
        for kind, (scores, ids, answered) in zip(KINDS, answers_of(logits, parts, table.colon), strict=True):
            right[kind].append(((scores.argmax(-1) == ids) | ~answered).all(-1).flatten())
    return {kind: torch.cat(hits).float().mean().item() for kind, hits in right.items()}
