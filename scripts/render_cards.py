"""Render `model_cards/<name>/README.md` of every variant in `variants.toml`.

    python scripts/render_cards.py [--check] [--out DIR]

With --check nothing is written; the exit code is 1 if a card is stale. --out writes or checks cards elsewhere.
"""

import argparse
import sys
from pathlib import Path

from divprune_hf.cards.card import CardFacts, render_card
from divprune_hf.cards.variants import read_table
from divprune_hf.common.whole_file import write_whole
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig
from divprune_hf.version import __version__


ROOT = Path(__file__).parents[1]


def table_cards() -> dict[str, str]:
    """Return the text of each card, by the key of its variant. ORG stands for whoever publishes it."""
    cards = {}
    for key, row in read_table()[1].items():
        facts = CardFacts(
            name=f"org/{key}-divprune",
            divprune_config=DivPruneConfig(**row.divprune_config),
            base=row.base,
            on_hub="/" in row.base,
            tag=f"v{__version__}",
            licence=row.licence,
            row=row,
            family=row.family,
        )
        cards[key] = render_card(facts)
    return cards


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a card is stale")
    parser.add_argument("--out", type=Path, default=ROOT / "model_cards", help="the folder of the cards")
    options = parser.parse_args(arguments)
    stale = []
    for key, text in table_cards().items():
        path = options.out / key / "README.md"
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path))
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
    print("\n".join(stale) or "All cards are up to date.")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
