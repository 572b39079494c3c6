"""What remote code uses of transformers is there, in this release; its name stands in one table.

A new release of transformers fails here first, with the name of what has moved.
"""

import ast
import importlib
import inspect
import textwrap
from importlib import resources

import pytest
import transformers
from packaging.version import Version
from transformers.processing_utils import ProcessorMixin

from divprune_hf.checkpoints.families import FAMILIES
from divprune_hf.remote_code import transformers_surface as surface
from tests.helpers.tiny_models import FAMILY_CLASSES


pytestmark = pytest.mark.modeling
SOURCES = {
    entry.name.removesuffix(".py"): ast.parse(entry.read_text())
    for entry in resources.files("divprune_hf.remote_code").iterdir()
    if entry.name.endswith(".py") and entry.name != "__init__.py"
}


def imports_of(tree, level):
    """(module, name) of all `from module import name` of a level: 0 is absolute, 1 a sibling."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == level]
    return {(node.module, alias.name) for node in found for alias in node.names}


def test_the_table_names_all_imports_and_no_more():
    used = set.union(*(imports_of(tree, 0) for tree in SOURCES.values()))
    used = {(module, name) for module, name in used if module.split(".")[0] == "transformers"}
    # Its own table says what of it is used; 4.57 has no such module.
    used.remove(("transformers", "conversion_mapping"))
    families = {("transformers", name) for names in surface.IMPORTED_BY_FAMILY.values() for name in names}
    assert used == {(module, name) for module, names in surface.IMPORTED.items() for name in names} | families


@pytest.mark.parametrize(("module", "name"), [(m, name) for m, names in surface.IMPORTED.items() for name in names])
def test_what_is_imported_exists(module, name):
    assert getattr(importlib.import_module(module), name) is not None


@pytest.mark.parametrize("family", FAMILY_CLASSES)
def test_a_stock_family_has_the_methods(family):
    head_class = FAMILY_CLASSES[family][1]
    inner_class = getattr(transformers, head_class.__name__.replace("ForConditionalGeneration", "Model"))
    surface.check_methods(inner_class, surface.INNER_METHODS)
    surface.check_methods(head_class, surface.HEAD_METHODS)
    if FAMILIES[family].takes_videos:
        surface.check_methods(inner_class, surface.VIDEO_METHODS)


def test_processors_have_the_methods():
    hooks = surface.PROCESSOR_HOOKS if surface.HAS_IMAGE_HOOK else surface.PROCESSOR_METHODS
    surface.check_methods(ProcessorMixin, hooks)


@pytest.mark.skipif(not surface.HAS_IMAGE_HOOK, reason="transformers 4.57 has another way")
def test_checkpoints_of_stock_families_can_be_read():
    from transformers import conversion_mapping

    surface.check_methods(conversion_mapping, surface.CONVERSION)


def calls_of_self(function):
    """The methods of `self` that a function's source calls, decorators aside."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        call.attr
        for call in calls
        if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) and call.value.id == "self"
    }


@pytest.mark.parametrize("family", FAMILY_CLASSES)
def test_the_stock_forward_asks_the_methods_that_prune(family):
    """The one pair of facts that the seam relies on; where they land is tested by the oracle."""
    head_class = FAMILY_CLASSES[family][1]
    inner_class = getattr(transformers, head_class.__name__.replace("ForConditionalGeneration", "Model"))
    called = calls_of_self(inner_class.forward)
    assert {"get_image_features", "get_placeholder_mask"} <= called
    assert not FAMILIES[family].takes_videos or "get_video_features" in called


@pytest.mark.parametrize("family", FAMILY_CLASSES)
def test_our_methods_take_what_the_stock_ones_take_and_the_counts(family):
    ours = FAMILIES[family]
    stock_head = FAMILY_CLASSES[family][1]
    stock_inner = getattr(transformers, stock_head.__name__.replace("ForConditionalGeneration", "Model"))
    counts = ["num_image_tokens_kept", *(["num_video_tokens_kept"] if ours.takes_videos else [])]
    for cls, stock in ((ours.head_class, stock_head), (ours.model_class, stock_inner)):
        taken, expected = (list(inspect.signature(each.forward).parameters) for each in (cls, stock))
        assert [name for name in taken if name not in counts] == expected and set(counts) <= set(taken)
    taken = inspect.signature(ours.model_class.get_image_features).parameters
    assert set(inspect.signature(stock_inner.get_image_features).parameters) < set(taken) and counts[0] in taken
    # The source that a reader finds is ours.
    source = inspect.getsource(inspect.unwrap(ours.model_class.forward))
    assert "super().forward(**inputs)" in source and len(source.splitlines()) < 30


def test_the_seam_names_nothing_that_moves():
    text = resources.files("divprune_hf.remote_code").joinpath("pruning_divprune.py").read_text()
    moving = ("__version__", "hidden_states", "mm_encoder_outputs", "past_key_values", "cache", "language_model")
    assert [name for name in moving if name in text] == []


def test_something_missing_is_named_with_what_to_do():
    class Stock:
        def forward(self, input_ids, pixel_values):
            pass

    with pytest.raises(ImportError, match=r"DivPrune needs Stock.forward\(input_ids, inputs_embeds.*Tested are 4.57.6"):
        surface.check_methods(Stock, surface.INNER_METHODS)


def test_a_release_that_lacks_a_name_is_refused(monkeypatch):
    monkeypatch.setitem(surface.IMPORTED, "transformers.image_utils", ("get_image_size", "gone"))
    with pytest.raises(ImportError, match=r"transformers.image_utils.gone, which transformers .* lacks.*pip install"):
        surface.check_release()


@pytest.mark.parametrize("version", ["4.56.2", "4.9.0"])
def test_a_release_that_is_too_old_is_refused(monkeypatch, version):
    monkeypatch.setattr(surface.transformers, "__version__", version)
    with pytest.raises(ImportError, match=f"4.57, or 5.10 and later; found {version}.*pip install"):
        surface.check_release()


@pytest.mark.skipif(not surface.HAS_IMAGE_HOOK, reason="transformers 4.57 cannot pass for a newer one")
@pytest.mark.parametrize(("version", "is_mentioned"), [("99.0.0", True), (surface.TESTED_TRANSFORMERS[-1], False)])
def test_a_newer_release_is_mentioned_once(monkeypatch, caplog, version, is_mentioned):
    transformers.utils.logging.get_logger("transformers").addHandler(caplog.handler)
    transformers.logging.set_verbosity_warning()
    monkeypatch.setattr(surface.transformers, "__version__", version)
    try:
        surface.check_release()
        surface.check_release()
    finally:
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.get_logger("transformers").removeHandler(caplog.handler)
    mentioned = [record for record in caplog.records if "tested with transformers up to" in record.getMessage()]
    assert len(mentioned) == is_mentioned


def test_tested_releases_are_in_order():
    assert list(surface.TESTED_TRANSFORMERS) == sorted(surface.TESTED_TRANSFORMERS, key=Version)
