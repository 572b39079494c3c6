"""Pictures of what each selector keeps of a picture's visual tokens, and how far apart the kept ones are.

    divprune-hf diversity model_cards/pocket-llava model_cards/pocket-llava/examples --out diversity

The folder gets, as figures 3 and 5 of the paper, tsne_NAME.png (all and kept tokens of the first pictures in two
dimensions, by t-SNE) and max_min_distance.png (a histogram over all pictures of the max-min distance of the kept set),
and diversity.json with the distances. The max-min distance is the smallest cosine distance between two kept tokens;
DivPrune makes it large.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from divprune_hf.common.extras import check_plot_packages
from divprune_hf.common.machine import write_run
from divprune_hf.evaluation.answers import apply_setting, selection_inputs
from divprune_hf.evaluation.report import LABELS, STYLES
from divprune_hf.evaluation.run_folder import model_name
from divprune_hf.evaluation.settings import Setting, parse_budget
from divprune_hf.inference.loading import load_pruned
from divprune_hf.inference.pictures import read_picture
from divprune_hf.remote_code.selectors import SELECTORS, selector_named
from divprune_hf.remote_code.token_selection import feature_list


SMALLEST = 1e-6  # the smallest distance that is drawn
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class DiversityRun:
    """Options of `divprune-hf diversity`.

    Args:
        model: a stock base or a variant, a folder or the id of a Hub repo.
        pictures: picture files, or folders of them.
        out: the folder to write into.
        budget: a share ("0.098") or a number of tokens ("64"), as users write it.
        selectors: names of `SELECTORS`.
        seed: the seed of selectors that draw, and of t-SNE.
        draw: the number of pictures to draw by t-SNE.
        device: such as "cpu" or "cuda:0"; by default wherever there is room.
        revision: branch, tag or commit of a Hub repo.
    """

    model: str
    pictures: Sequence[Path]
    out: Path
    budget: str = "0.098"
    selectors: Sequence[str] = field(default_factory=lambda: list(SELECTORS))
    seed: int = 0
    draw: int = 1
    device: str | None = None
    revision: str | None = None


def measure_diversity(run: DiversityRun) -> dict[str, Any]:
    """Draw all pictures.

    Returns:
        dict of everything in diversity.json: "results" (one row per picture and selector), "medians" (of the max-min
        distance, by selector), and what they were measured with.

    Raises:
        ValueError: an option is impossible, matplotlib or scikit-learn is not installed, or the model or a picture
            cannot be read.
    """
    check_plot_packages("divprune-hf diversity", "matplotlib", "sklearn")
    budget = parse_budget(run.budget)
    if isinstance(budget, str):
        raise ValueError(f"Got budget {budget}, expected a share or a number of tokens: nothing is computed from them.")
    settings = {
        name: Setting(name, budget, run.seed if selector_named(name).uses_seed else None) for name in run.selectors
    }
    if budget == 1 and isinstance(budget, int):
        raise ValueError("Got a budget of 1 token, expected at least 2: one token has no distance to another.")
    files = picture_files(run.pictures)
    model, processor = load_pruned(run.model, retention_ratio=1.0, device=run.device, revision=run.revision)
    run.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number, file in enumerate(files):
        picture = read_picture(str(file))
        features = features_of(model, processor, picture)
        picks = {name: picks_of(model, processor, picture, setting) for name, setting in settings.items()}
        if number < run.draw:
            draw_tsne(features, picks, run.seed, run.out / f"tsne_{file.stem}.png")
        for name, kept in picks.items():
            row = {"picture": file.name, "selector": name, "kept": len(kept), "visual_tokens": len(features)}
            rows.append({**row, "max_min_distance": max_min_distance(features[kept])})
    distances = {name: [row["max_min_distance"] for row in rows if row["selector"] == name] for name in settings}
    draw_histogram(distances, run.out / "max_min_distance.png")
    figures = {
        "results": rows,
        "medians": {name: float(torch.tensor(values).median()) for name, values in distances.items()},
        "model": model_name(run.model),
        "budget": budget,
        "seed": run.seed,
    }
    return write_run(run.out / "diversity.json", figures, model.device, with_threads=False, indent=1)


def picture_files(sources: Sequence[Path]) -> list[Path]:
    """Return the picture files among files and folders, sorted within each folder.

    Raises:
        ValueError: a source is missing, or a folder has no picture.
    """
    files = []
    for source in sources:
        if not source.exists():
            raise ValueError(f"{source} does not exist, expected a picture or a folder of pictures.")
        if not source.is_dir():
            files.append(source)
            continue
        inside = sorted(path for path in source.iterdir() if path.suffix.lower() in ENDINGS)
        if not inside:
            raise ValueError(f"{source} has no pictures, expected files that end in one of {ENDINGS}.")
        files += inside
    return files


def max_min_distance(kept_features: torch.Tensor) -> float:
    """Return the smallest cosine distance between two rows of `kept_features`, `(K, width)`."""
    unit = torch.nn.functional.normalize(kept_features.double(), dim=1)
    distances = 1 - unit @ unit.T
    return distances.fill_diagonal_(torch.inf).min().item()


@torch.no_grad()
def features_of(model: Any, processor: Any, picture: Image.Image) -> torch.Tensor:
    """Return all features of a picture, `(M, width)`."""
    apply_setting(model, processor, Setting("max_min", 1.0))
    inputs = processor(images=[picture], text=[processor.image_token], return_tensors="pt")
    inputs = selection_inputs(inputs.to(model.device, model.dtype))
    (features,) = feature_list(model.model.get_image_features(**inputs))
    return features


@torch.no_grad()
def picks_of(model: Any, processor: Any, picture: Image.Image, setting: Setting) -> list[int]:
    """Return the indices of the visual tokens that are kept of one picture."""
    apply_setting(model, processor, setting)
    inputs = processor(images=[picture], text=[processor.image_token], return_tensors="pt")
    (picks,) = model.select_image_tokens(**selection_inputs(inputs.to(model.device, model.dtype)))
    return picks.tolist()


def draw_tsne(features: torch.Tensor, picks: Mapping[str, list[int]], seed: int, out: Path) -> None:
    """Draw all tokens in grey and the kept ones in colour, one panel per selector, at the same places in each.

    Args:
        features: all features of a picture, `(M, width)`.
        picks: for each selector, the indices of the kept ones.
        seed: the seed of t-SNE.
        out: the PNG file to write.
    """
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(features) - 1) / 3)
    places = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed).fit_transform(
        features.float().cpu().numpy()
    )
    figure = Figure(figsize=(3.3 * len(picks), 3.5), dpi=110)
    panels = figure.subplots(1, len(picks), squeeze=False)[0]
    for panel, (selector, kept) in zip(panels, picks.items()):
        colour, marker = STYLES[selector]
        panel.scatter(*places.T, s=9, color="#cccccc", linewidths=0)
        panel.scatter(*places[kept].T, s=26, color=colour, marker=marker, linewidths=0.4, edgecolors="black")
        panel.set_title(f"{LABELS[selector]}: {len(kept)} of {len(places)}", fontsize=10)
        panel.set_xticks([])
        panel.set_yticks([])
    figure.tight_layout()
    figure.savefig(out)


def draw_histogram(distances: Mapping[str, list[float]], out: Path) -> None:
    """Draw the max-min distances of all pictures on a logarithmic axis, over the same bins for every selector."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), dpi=110)
    panel = figure.subplots()
    largest = max(max(values) for values in distances.values())
    # Two tokens can be equal: everything below the noise of float32 goes into the first bin.
    edges = torch.logspace(math.log10(SMALLEST), math.log10(max(largest, 10 * SMALLEST)) + 1e-3, 41).tolist()
    for selector, values in distances.items():
        clipped = [max(value, SMALLEST) for value in values]
        panel.hist(clipped, bins=edges, color=STYLES[selector][0], alpha=0.55, label=LABELS[selector])
    panel.set_xscale("log")
    panel.set_xlabel("smallest cosine distance between two kept tokens")
    panel.set_ylabel("pictures")
    panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out)
