"""Stages two to four of pocket-llava: projector warm-up, questions over a frozen tower, all weights together."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from pocket_packing import KINDS, QuestionTable, answers_of, packed_accuracy, packed_logits
from pocket_scenes import NOTHING, PATCH_GRID, Pictures, Scenes, draw_scenes
from pocket_tower import TowerHeads, one_cycle, resume_part, save_part, show, tower_features, weight_groups


def warm_up(model: nn.Module, pictures: Pictures, steps: int, seed: int, log: Callable[[str], None]) -> None:
    """Train projector and words so that a projected patch points at the noun of its object, or at "nothing".

    Two throw-away heads keep row and column readable.
    """
    table = QuestionTable()
    generator = torch.Generator().manual_seed(seed)
    llava = model.model
    embedding, lm_head, hidden = llava.language_model.embed_tokens, model.lm_head, model.lm_head.in_features
    places = TowerHeads(hidden)
    trained = [llava.multi_modal_projector, embedding, lm_head, places]
    optimizer = torch.optim.AdamW(weight_groups(trained, 0.01), lr=3e-3)
    everywhere = torch.arange(PATCH_GRID**2)
    for step in range(steps):
        scenes = draw_scenes(pictures, 16, generator)
        with torch.no_grad():
            features = tower_features(llava.vision_tower, scenes.images)
        projected = llava.multi_modal_projector(features)
        words = table.nouns[scenes.patches].flatten()
        weight = torch.ones(lm_head.out_features)
        weight[table.nouns[NOTHING]] = 0.3
        loss = places.loss(projected, scenes.patches, everywhere.expand(len(scenes), -1))
        for matrix in (lm_head.weight, embedding.weight):
            loss = loss + functional.cross_entropy(functional.linear(projected, matrix).flatten(0, 1), words, weight)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * one_cycle(step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            norm = projected.detach().norm(dim=-1).mean().item()
            log(f"warm-up step {step} loss {loss.item():.3f} feature norm {norm:.2f}")


def train_language(
    model: nn.Module,
    pictures: Pictures,
    validation: Scenes,
    minutes: float,
    peak_rate: float,
    joint: bool,
    seed: int,
    log: Callable[[str], None],
    save: Path,
    batch: int = 16,
) -> None:
    """Train projector and Llama (with `joint` the tower too) on packed questions for `minutes`."""
    table = QuestionTable()
    llava = model.model
    modules = [llava.multi_modal_projector, llava.language_model, model.lm_head]
    modules += [llava.vision_tower] if joint else []
    optimizer = torch.optim.AdamW(weight_groups(modules, 0.05), lr=peak_rate, betas=(0.9, 0.98))
    part = save.with_suffix(".part")
    progress, step = resume_part(part, {"model": model, "optimizer": optimizer})
    # A resumed stage draws scenes it has not seen.
    generator = torch.Generator().manual_seed(seed + step)
    begin, shown = time.monotonic() - progress * minutes * 60, progress
    while (progress := (time.monotonic() - begin) / (minutes * 60)) < 1:
        scenes = draw_scenes(pictures, batch, generator)
        parts = table.draw(scenes, generator)
        with torch.set_grad_enabled(joint):
            features = tower_features(llava.vision_tower, scenes.images)
        logits = packed_logits(model, llava.multi_modal_projector(features), parts, table)
        losses = [
            functional.cross_entropy(scores[answered], ids[answered])
            for scores, ids, answered in answers_of(logits, parts, table.colon)
        ]
        loss = sum(losses)
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
                + " ".join(f"{k} {x.item():.3f}" for k, x in zip(KINDS, losses, strict=True))
            )
        if progress - shown > 0.05:
            shown = progress
            log(f"{progress:.0%} step {step} {show(packed_accuracy(model, table, validation, 0))}")
            save_part(part, {"model": model, "optimizer": optimizer}, progress, step)
    log(f"done, step {step} {show(packed_accuracy(model, table, validation, 0))}")
    torch.save(model.state_dict(), save)
