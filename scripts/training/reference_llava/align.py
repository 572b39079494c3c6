"""The start of the reference model's training: the projector learns to write the names of what a patch shows.

What the language model is given for a patch of a cat is then close to its embedding of " cat", and for a patch of the
plain ground to that of " nothing". It can work with that from the first step on.
"""

import random
from typing import Any

import torch
from torch.nn import functional

from scripts.training.reference_llava.features import tower_features
from scripts.training.reference_llava.mosaics import GRID, NOTHING, draw_mosaic
from scripts.training.reference_llava.photos import Photos


PATCHES_PER_MOSAIC = 144
PATCHES_PER_STEP = 2048
MOSAICS_AT_A_TIME = 8
PULL = 0.05  # the weight of being at the name's embedding, beside being nearest to it


def patch_labels(cells: list[int], num_patches: int) -> torch.Tensor:
    """Return the label of each patch, row by row: that of the cell which its centre lies in."""
    side = round(num_patches**0.5)
    line = (2 * torch.arange(side) + 1) * GRID // (2 * side)
    return torch.tensor(cells).view(GRID, GRID)[line[:, None], line[None, :]].flatten()


def labelled_patches(model: Any, processor: Any, photos: Photos, options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and labels of patches of crowded mosaics: `(N, width)` in float16 and `(N,)`."""
    rng, by_name = random.Random(f"{options.seed} align"), photos.by_name()
    generator = torch.Generator().manual_seed(options.seed)
    numbers = {name: number for number, name in enumerate([*sorted(by_name), NOTHING])}
    features, labels = [], []
    for _ in range(0, options.align_mosaics, MOSAICS_AT_A_TIME):
        mosaics = [draw_mosaic(photos, by_name, rng, most=GRID**2) for _ in range(MOSAICS_AT_A_TIME)]
        for mosaic, patches in zip(mosaics, tower_features(model, processor, mosaics).cpu(), strict=True):
            chosen = torch.randperm(len(patches), generator=generator)[:PATCHES_PER_MOSAIC]
            features.append(patches[chosen].half())
            labels.append(patch_labels([numbers[name] for name in mosaic.cells], len(patches))[chosen])
    return torch.cat(features), torch.cat(labels)


def name_embeddings(model: Any, processor: Any, photos: Photos) -> torch.Tensor:
    """Return the language model's embedding of each name and of "nothing", the mean of its tokens'."""
    table = model.get_input_embeddings().weight.detach()
    tokens = [processor.tokenizer(f" {name}", add_special_tokens=False).input_ids for name in sorted(photos.by_name())]
    tokens.append(processor.tokenizer(f" {NOTHING}", add_special_tokens=False).input_ids)
    return torch.stack([table[ids].mean(0) for ids in tokens])


def align_projector(model: Any, processor: Any, photos: Photos, options: Any) -> float:
    """Train the projector on patches alone; return the share of the last patches whose name is the nearest."""
    features, labels = labelled_patches(model, processor, photos, options)
    targets = name_embeddings(model, processor, photos)
    projector = model.model.multi_modal_projector
    optimizer = torch.optim.AdamW(projector.parameters(), lr=1e-3, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=options.align_steps)
    generator = torch.Generator().manual_seed(options.seed)
    right = []
    for _ in range(options.align_steps):
        chosen = torch.randint(len(labels), (PATCHES_PER_STEP,), generator=generator)
        wanted = labels[chosen].to(model.device)
        written = projector(features[chosen].float().to(model.device))
        nearness = -torch.cdist(written, targets).square() / 2
        loss = functional.cross_entropy(nearness, wanted) + PULL * (written - targets[wanted]).square().sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        right.append((nearness.argmax(1) == wanted).float().mean().item())
    return sum(right[-20:]) / len(right[-20:])
