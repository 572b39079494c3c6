"""Stages two to four of pocket-llava: projector warm-up, questions over a frozen tower, less background."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from divprune_hf.common.whole_file import save_whole
from scripts.training.pocket_llava.packing import KINDS, QuestionTable, answer_losses, packed_accuracy, packed_logits
from scripts.training.pocket_llava.scenes import (
    CELL_GRID,
    CELL_PATCHES,
    NOTHING,
    NUM_CLASSES,
    PATCH_GRID,
    Pictures,
    Scenes,
    draw_scenes,
)
from scripts.training.pocket_llava.tower import (
    TowerHeads,
    choose_patches,
    one_cycle,
    resume_part,
    save_part,
    show,
    tower_features,
    weight_groups,
)


# Warm-up: length wanted of a projected patch, and the factor that turns a cosine into a score.
FEATURE_NORM = 3.0
COSINE_SCALE = 12.0
# Weight of the early answers, which only training looks at.
EARLY_WEIGHT = 0.5
# The fewest visual tokens a batch may be left with; eight objects cover 32.
SMALLEST_SUBSET = 36
# So many layers start by looking for equal content.
CONTENT_LAYERS = 2


def warm_up(model: nn.Module, pictures: Pictures, steps: int, seed: int, log: Callable[[str], None]) -> None:
    """Train projector and words so that a projected patch points the way of its object's noun, or of "nothing".

    Scores are cosines, so that patches and nouns agree in direction, and patches keep a length like the words'.
    Two throw-away heads keep row and column readable. At the end every word for a cell gets the direction in which
    the cell's object patches differ from the others, so that it finds them the way a noun does.
    """
    table = QuestionTable()
    generator = torch.Generator().manual_seed(seed)
    llava = model.model
    embedding, lm_head, hidden = llava.language_model.embed_tokens, model.lm_head, model.lm_head.in_features
    places = TowerHeads(hidden)
    trained = [llava.multi_modal_projector, embedding, lm_head, places]
    optimizer = torch.optim.AdamW(weight_groups(trained, 0.01), lr=3e-3)
    everywhere = torch.arange(PATCH_GRID**2)
    cells = everywhere // PATCH_GRID // CELL_PATCHES * CELL_GRID + everywhere % PATCH_GRID // CELL_PATCHES
    for step in range(steps):
        scenes = draw_scenes(pictures, 16, generator)
        with torch.no_grad():
            features = tower_features(llava.vision_tower, scenes.images)
        projected = llava.multi_modal_projector(features)
        words = table.nouns[scenes.patches].flatten()
        weight = torch.ones(lm_head.out_features)
        weight[table.nouns[NOTHING]] = 0.3
        loss = places.loss(projected, scenes.patches, everywhere.expand(len(scenes), -1))
        loss = loss + 0.1 * (projected.norm(dim=-1) - FEATURE_NORM).square().mean()
        direction = functional.normalize(projected, dim=-1).flatten(0, 1)
        for matrix in (lm_head.weight, embedding.weight):
            scores = COSINE_SCALE * functional.linear(direction, functional.normalize(matrix, dim=-1))
            loss = loss + functional.cross_entropy(scores, words, weight)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * one_cycle(step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            norm = projected.detach().norm(dim=-1).mean().item()
            log(f"warm-up step {step} loss {loss.item():.3f} feature norm {norm:.2f}")
    place_words(model, table, draw_scenes(pictures, 256, generator), cells)


@torch.no_grad()
def place_words(model: nn.Module, table: QuestionTable, scenes: Scenes, cells: torch.Tensor) -> None:
    """Set the embeddings of the cell words from object patches of `scenes`; `cells` (256,) is the cell of a patch."""
    llava = model.model
    held = scenes.patches != NOTHING
    parts = [llava.multi_modal_projector(tower_features(llava.vision_tower, part)) for part in scenes.images.split(32)]
    directions = functional.normalize(torch.cat(parts)[held], dim=-1)
    own = functional.one_hot(cells.expand_as(held)[held], CELL_GRID**2).float()
    means = own.T @ directions / own.sum(0)[:, None]
    words = functional.normalize(means - directions.mean(0), dim=-1)
    nouns = llava.language_model.embed_tokens.weight[table.nouns[:NUM_CLASSES]]
    llava.language_model.embed_tokens.weight[table.cells] = words * nouns.norm(dim=-1).mean()


def start_by_content(model: nn.Module, gain: float = 2.5) -> None:
    """Let the query heads of the first layers start as copies of their key heads, `gain` times as sharp.

    A word then looks for patches with its own content: the warm-up has just made a patch resemble the noun of its
    object, so the question finds it from the first step.
    """
    config = model.model.language_model.config
    shared = config.num_attention_heads // config.num_key_value_heads
    with torch.no_grad():
        for layer in model.model.language_model.layers[:CONTENT_LAYERS]:
            keys = layer.self_attn.k_proj.weight.mul_(gain).unflatten(0, (-1, config.head_dim))
            layer.self_attn.q_proj.weight.copy_(keys.repeat_interleave(shared, 0).flatten(0, 1))


def train_language(
    model: nn.Module,
    pictures: Pictures,
    validation: Scenes,
    minutes: float,
    peak_rate: float,
    seed: int,
    log: Callable[[str], None],
    save: Path,
    subsets_until: float = 0.0,
    batch: int = 16,
) -> tuple[int, dict[str, float]]:
    """Train projector and Llama on packed questions for `minutes`; gives the steps and the validation figures.

    Up to the share `subsets_until` of the stage every other batch leaves out a random part of the background patches
    (never an object's), wherever they lie, so that nothing can rest on a patch's place in the sequence.
    """
    table = QuestionTable()
    llava = model.model
    modules = [llava.multi_modal_projector, llava.language_model, model.lm_head]
    optimizer = torch.optim.AdamW(weight_groups(modules, 0.05), lr=peak_rate, betas=(0.9, 0.98))
    holders = {"model": model, "optimizer": optimizer}
    part = save.with_suffix(".part")
    progress, step = resume_part(part, holders)
    # A resumed stage draws scenes it has not seen.
    generator = torch.Generator().manual_seed(seed + step)
    begin, shown = time.monotonic() - progress * minutes * 60, progress
    while (progress := (time.monotonic() - begin) / (minutes * 60)) < 1:
        scenes = draw_scenes(pictures, batch, generator)
        parts = table.draw(scenes, generator)
        with torch.no_grad():
            features = tower_features(llava.vision_tower, scenes.images)
        if progress < subsets_until and step % 2:
            share = torch.rand(1, generator=generator).square().item()
            num_kept = SMALLEST_SUBSET + int(share * (PATCH_GRID**2 - SMALLEST_SUBSET))
            kept = choose_patches(scenes.patches, num_kept, generator).sort(1).values
            features = features.gather(1, kept[..., None].expand(-1, -1, features.shape[2]))
        logits = packed_logits(model, llava.multi_modal_projector(features), parts, table)
        losses, early = answer_losses(logits, parts, table.colon)
        loss = sum(losses) + EARLY_WEIGHT * sum(early)
        for group in optimizer.param_groups:
            group["lr"] = peak_rate * one_cycle(progress)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([weight for module in modules for weight in module.parameters()], 1.0)
        optimizer.step()
        step += 1
        if step % 20 == 0:
            log(
                f"step {step} {progress:.1%} "
                + " ".join(f"{k} {x.item():.3f}/{y.item():.3f}" for k, x, y in zip(KINDS, losses, early, strict=True))
            )
        if progress - shown > 0.05:
            shown = progress
            log(f"{progress:.0%} step {step} {show(packed_accuracy(model, table, validation, 0))}")
            save_part(part, holders, progress, step)
    figures = packed_accuracy(model, table, validation, 0)
    log(f"done, step {step} {show(figures)}")
    save_whole(save, lambda partial: torch.save(model.state_dict(), partial))
    return step, figures
