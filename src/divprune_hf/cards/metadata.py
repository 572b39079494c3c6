"""Offline checks of the metadata of a card; the check of huggingface_hub asks the server."""

from typing import Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from divprune_hf.cards.variants import licence_ids


RELATIONS = ("adapter", "merge", "quantized", "finetune")


def check_metadata(text: str) -> None:
    """Refuse a card whose metadata the Hub would not accept.

    Raises:
        ValueError: names the field, its value, and what is expected.
    """
    data = read_card(text).data
    licence = data.get("license")
    if licence not in licence_ids():
        raise ValueError(f"README.md has license={licence!r}, expected a licence id of the Hub, such as apache-2.0.")
    if licence == "other" and not (data.get("license_name") and data.get("license_link")):
        raise ValueError("README.md has license='other', expected license_name and license_link with it.")
    for field, expected in (("library_name", "transformers"), ("pipeline_tag", "image-text-to-text")):
        if data.get(field) != expected:
            raise ValueError(f"README.md has {field}={data.get(field)!r}, expected {expected!r}.")
    if "divprune" not in (data.get("tags") or []):
        raise ValueError(f"README.md has tags={data.get('tags')!r}, expected 'divprune' among them.")
    check_base_model(data.get("base_model"), data.get("base_model_relation"))


def with_metadata(text: str, changes: dict[str, Any]) -> str:
    """Return a card with some fields of its metadata set; None leaves a field as it is."""
    card = read_card(text)
    for name, value in changes.items():
        if value is not None:
            setattr(card.data, name, value)
    return str(card)


def read_card(text: str) -> ModelCard:
    """Return a card as an object; raise a `ValueError` if its metadata cannot be read."""
    try:
        return ModelCard(text, ignore_metadata_errors=False)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"README.md has no readable metadata ({' '.join(str(error).split())}).") from None


def check_base_model(base_model: Any, relation: Any) -> None:
    """Refuse a `base_model` that is no Hub id, and a relation that is unknown or lacks its base."""
    bases = base_model if isinstance(base_model, list) else [base_model] if base_model else []
    for base in bases:
        try:
            validate_repo_id(base)
        except ValueError:
            raise ValueError(f"README.md has base_model={base!r}, expected the id of a Hub repo.") from None
    if (relation is None) == bool(bases) or (bases and relation not in RELATIONS):
        raise ValueError(
            f"README.md has base_model_relation={relation!r} with base_model={base_model!r}, expected one of "
            f"{RELATIONS} where there is a base."
        )
