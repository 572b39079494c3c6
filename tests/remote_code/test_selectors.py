"""The table of selectors: what is in it works everywhere, and nothing else does."""

import pytest
import torch

from divprune_hf import DivPruneConfig, convert_checkpoint
from divprune_hf.remote_code import baseline_selectors
from divprune_hf.remote_code.selectors import SELECTORS, Selector
from tests.helpers.tiny_answers import load


pytestmark = pytest.mark.modeling


@pytest.fixture
def last_tokens(monkeypatch):
    """A throw-away selector: one entry, and nothing more."""

    def pick(images):
        return [torch.arange(len(f) - count, len(f)) for f, count in zip(images.features, images.counts)]

    monkeypatch.setattr(baseline_selectors, "last_picks", pick, raising=False)
    entry = Selector("baseline_selectors.last_picks", label="last", sentence="the last ones")
    monkeypatch.setitem(SELECTORS, "last", entry)


def test_a_new_entry_is_a_setting_a_choice_and_a_sentence(case, last_tokens, tmp_path):
    model, processor = load(case.checkpoint, divprune_config={"selector": "last", "num_tokens": 5})
    inputs = case.inputs(processor, num_tokens=5)
    names = ("pixel_values", "image_sizes", "num_image_tokens_kept")
    available = processor.count_image_tokens(inputs)
    picks = model.select_image_tokens(**{name: inputs[name] for name in names if name in inputs})
    assert [p.tolist() for p in picks] == [list(range(m - 5, m)) for m in available]
    variant = convert_checkpoint(case.checkpoint.base, tmp_path / "last", {"selector": "last"})
    assert "the last ones" in (variant / "README.md").read_text()


def test_an_unknown_name_raises_everywhere(family, photos):
    with pytest.raises(ValueError, match="selector='diverse', expected one of"):
        DivPruneConfig(selector="diverse")
    model, processor = load(family)
    inputs = processor(images=photos[:1], text="w1 <image>", return_tensors="pt")
    model.config.divprune_config.selector = "diverse"
    for call in (lambda: model.select_image_tokens(inputs["pixel_values"]), lambda: model(**inputs)):
        with pytest.raises(ValueError, match="selector='diverse', expected one of"):
            call()


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_keeps_as_many_distinct_tokens_as_it_is_told(case, name):
    model, processor = load(case.checkpoint, divprune_config={"selector": name})
    inputs = case.inputs(processor, num_tokens=7)
    names = ("pixel_values", "image_sizes", "num_image_tokens_kept")
    for picks in model.select_image_tokens(**{name: inputs[name] for name in names if name in inputs}):
        assert len(set(picks.tolist())) == 7 and picks.tolist() == sorted(picks.tolist())
