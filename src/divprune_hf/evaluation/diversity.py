"""Pictures of why: what each selector keeps of a picture's visual tokens, and how far apart the kept ones are.

    divprune-hf diversity model_cards/pocket-llava model_cards/pocket-llava/examples --out diversity

MODEL is a stock base or a variant, a folder or the id of a Hub repo; PICTURES are files or folders. Writes into DIR, as
figures 3 and 5 of the paper: tsne_NAME.png, all and kept tokens of the first pictures (--draw) in two dimensions, by
t-SNE; max_min_distance.png, a histogram over all pictures of the kept set's max-min distance, which is the smallest
cosine distance between two kept tokens, and what DivPrune makes large; and diversity.json with the distances. Needs the
extra `plot`.
"""

import argparse
import datetime
import json
import math
import sys
from pathlib import Path

import torch
import transformers
from sklearn.manifold import TSNE

from divprune_hf.common.machine import hardware, versions
from divprune_hf.evaluation.accuracy import model_name, parse_budget
from divprune_hf.evaluation.answers import Setting, apply_setting, kept_features
from divprune_hf.evaluation.report import LABELS, STYLES, plt
from divprune_hf.inference.loading import load_pruned
from divprune_hf.inference.pictures import read_picture
from divprune_hf.remote_code.selectors import SELECTORS


SMALLEST = 1e-6  # the least distance that is drawn
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="a stock base or a variant: a folder, or the id of a Hub repo")
    parser.add_argument("pictures", metavar="PICTURES", nargs="+", type=Path, help="picture files, or folders of them")
    parser.add_argument("--budget", default="0.098", metavar="B", help="a share (0.098) or a number of tokens (64)")
    parser.add_argument("--selectors", nargs="+", default=list(SELECTORS), metavar="S")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the selector `random` and of t-SNE (0)")
    parser.add_argument("--draw", type=int, default=1, metavar="N", help="how many pictures to draw by t-SNE (1)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write into")
    parser.add_argument("--device", help="such as cpu or cuda:0; by default wherever there is room")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub repo")
    return parser.parse_args(arguments)


def picture_files(sources: list[Path]) -> list[Path]:
    """The picture files among files and folders, sorted within each folder."""
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


def max_min_distance(features: torch.Tensor) -> float:
    """The smallest cosine distance between two rows of `features`, (K, width)."""
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    distances = 1 - unit @ unit.T
    return distances.fill_diagonal_(torch.inf).min().item()


@torch.no_grad()
def picks_of(model, processor, picture, setting: Setting) -> list[int]:
    """The indices of the visual tokens that are kept of one picture."""
    apply_setting(model, processor, setting)
    inputs = processor(images=[picture], text=[processor.image_token], return_tensors="pt")
    inputs = inputs.to(model.device, model.dtype)
    names = ("pixel_values", "image_sizes", "num_image_tokens_kept")
    return model.select_image_tokens(**{name: inputs[name] for name in names if name in inputs})[0].tolist()


def draw_tsne(features: torch.Tensor, picks: dict[str, list[int]], seed: int, out: Path) -> None:
    """All tokens in grey and the kept ones in colour, one panel per selector, at the same places in each."""
    perplexity = min(30, (len(features) - 1) / 3)
    places = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed).fit_transform(
        features.float().cpu().numpy()
    )
    figure, panels = plt.subplots(1, len(picks), figsize=(3.3 * len(picks), 3.5), squeeze=False, dpi=110)
    for panel, (selector, kept) in zip(panels[0], picks.items()):
        colour, marker = STYLES[selector]
        panel.scatter(*places.T, s=9, color="#cccccc", linewidths=0)
        panel.scatter(*places[kept].T, s=26, color=colour, marker=marker, linewidths=0.4, edgecolors="black")
        panel.set_title(f"{LABELS[selector]}: {len(kept)} of {len(places)}", fontsize=10)
        panel.set_xticks([])
        panel.set_yticks([])
    figure.tight_layout()
    figure.savefig(out)
    plt.close(figure)


def draw_histogram(distances: dict[str, list[float]], out: Path) -> None:
    """The max-min distances of all pictures, by powers of ten, over the same bins for every selector."""
    figure, panel = plt.subplots(figsize=(5, 3.2), dpi=110)
    largest = max(max(values) for values in distances.values())
    # Two tokens can be equal: all that is below float32's noise goes into the first bin.
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
    plt.close(figure)


def run(options: argparse.Namespace) -> dict:
    """Draw everything; return what diversity.json holds."""
    budget = parse_budget(options.budget)
    seed_of = {name: options.seed for name, selector in SELECTORS.items() if selector.uses_seed}
    settings = {name: Setting(name, budget, seed_of.get(name)) for name in options.selectors}
    if budget == 1 and isinstance(budget, int):
        raise ValueError("Got a budget of 1 token, expected at least 2: one token has no distance to another.")
    files = picture_files(options.pictures)
    options.out.mkdir(parents=True, exist_ok=True)
    model, processor = load_pruned(options.model, retention_ratio=1.0, device=options.device, revision=options.revision)
    everything = Setting("max_min", 1.0)
    rows = []
    for number, file in enumerate(files):
        picture = read_picture(str(file))
        apply_setting(model, processor, everything)
        (features,), _ = kept_features(model, processor, [picture])
        picks = {name: picks_of(model, processor, picture, setting) for name, setting in settings.items()}
        if number < options.draw:
            draw_tsne(features, picks, options.seed, options.out / f"tsne_{file.stem}.png")
        for name, kept in picks.items():
            row = {"picture": file.name, "selector": name, "kept": len(kept), "visual_tokens": len(features)}
            rows.append({**row, "max_min_distance": max_min_distance(features[kept])})
    distances = {name: [row["max_min_distance"] for row in rows if row["selector"] == name] for name in settings}
    draw_histogram(distances, options.out / "max_min_distance.png")
    report = {
        "results": rows,
        "medians": {name: float(torch.tensor(values).median()) for name, values in distances.items()},
        "model": model_name(options.model),
        "budget": budget,
        "seed": options.seed,
        "versions": versions(),
        "hardware": hardware(model.device),
        "date": datetime.date.today().isoformat(),
    }
    (options.out / "diversity.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    transformers.logging.set_verbosity_error()
    try:
        report = run(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for name, median in report["medians"].items():
        print(f"{name}: median max-min distance {median:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
