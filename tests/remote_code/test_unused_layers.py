"""Vision layers above the one that is read: they do not run, and nobody who asks for what they compute misses it."""

import copy
import inspect
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch._dynamo.utils import counters

from divprune_hf.checkpoints.families import FAMILIES
from divprune_hf.remote_code import unused_layers
from divprune_hf.remote_code.prompt_counts import PROMPT
from divprune_hf.remote_code.transformers_surface import HAS_IMAGE_HOOK
from tests.helpers.tiny_models import (
    FAMILY_CLASSES,
    IMAGE_SIZE,
    IMAGE_TOKEN_ID,
    TOWER_CONFIGS,
    tiny_config,
)


pytestmark = pytest.mark.modeling
NUM_LAYERS = 4
# What is read, and how many of four layers have to run for it. A list of layers needs a wider projector.
READ = {
    "-2": (-2, 3),
    "-3": (-3, 2),
    "-5": (-5, 1),
    "1": (1, 1),
    "-1": (-1, 4),
    "4": (4, 4),
    "[-2, -3]": ([-2, -3], 3),
    "[1, -4]": ([1, -4], 1),
    "[-4, -1]": ([-4, -1], 4),
    "[-2]": ([-2], 3),
}
named_outputs = pytest.mark.skipif(not HAS_IMAGE_HOOK, reason="transformers 4.57 returns features and nothing else")


def build_models(tower="clip", family="llava", vision_feature_layer=-2):
    """The stock model and ours, which keeps everything, on the same weights."""
    config = tiny_config(tower, family=family, num_vision_layers=NUM_LAYERS)
    config.vision_feature_layer = vision_feature_layer
    torch.manual_seed(0)
    stock = FAMILY_CLASSES[family][1](config).eval()
    settings = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    budget = {"retention_ratio": 1, **({"video_retention_ratio": 1} if FAMILIES[family].takes_videos else {})}
    ours = FAMILIES[family].head_class(FAMILIES[family].config_class(**settings, divprune_config=budget))
    ours.load_state_dict(stock.state_dict())
    return stock, ours.eval()


def calls_of(family):
    """The methods of a family that make features, with arguments for them."""
    generator = torch.Generator().manual_seed(1)
    size = (3, IMAGE_SIZE, IMAGE_SIZE)
    if family == "llava":
        return {"get_image_features": {"pixel_values": torch.randn(2, *size, generator=generator)}}
    sizes = torch.tensor([[48, 48], [24, 48]])
    pixels = {"pixel_values": torch.randn(2, 5, *size, generator=generator), "image_sizes": sizes}
    if family == "llava_next":
        return {"get_image_features": pixels}
    named = HAS_IMAGE_HOOK and "pixel_values_videos" in video_parameters(family)
    name = "pixel_values_videos" if named else "pixel_values"
    return {"get_image_features": pixels, "get_video_features": {name: torch.randn(2, 3, *size, generator=generator)}}


def video_parameters(family):
    return inspect.signature(FAMILY_CLASSES[family][1].get_video_features).parameters


def features_of(model, method, inputs, **wishes):
    outputs = getattr(model.model, method)(**inputs, **wishes)
    features = outputs if isinstance(outputs, (list, tuple)) else outputs.pooler_output
    return [video.reshape(-1, video.shape[-1]) for video in features]


def layers_of(model):
    (layers,) = (
        module
        for module in model.model.vision_tower.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == NUM_LAYERS
    )
    return [layers[index] for index in range(NUM_LAYERS)]


def count_runs(model):
    """A list that gets the number of each vision layer when it runs."""
    runs = []
    for index, layer in enumerate(layers_of(model)):
        layer.register_forward_hook(lambda *arguments, index=index: runs.append(index))
    return runs


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("family", FAMILY_CLASSES)
@pytest.mark.parametrize("tower", TOWER_CONFIGS)
@torch.no_grad()
def test_features_are_the_stock_models_and_no_layer_above_runs(tower, family, read):
    vision_feature_layer, num_needed = READ[read]
    stock, ours = build_models(tower, family, vision_feature_layer)
    runs = count_runs(ours)
    for method, inputs in calls_of(family).items():
        for wishes in ({}, {"vision_feature_layer": vision_feature_layer}):  # of the config, and of the call
            expected = features_of(stock, method, inputs, **wishes)
            features = features_of(ours, method, inputs, **wishes)
            assert all(torch.equal(one, other) for one, other in zip(features, expected, strict=True))
            assert runs == list(range(num_needed))
            runs.clear()


@torch.no_grad()
def test_what_a_call_reads_goes_before_what_the_config_says():
    stock, ours = build_models(vision_feature_layer=-4)
    runs, inputs = count_runs(ours), calls_of("llava")["get_image_features"]
    for layer, num_needed in ((-1, 4), (-3, 2), (-2, 3)):
        runs.clear()
        (features, _) = features_of(ours, "get_image_features", inputs, vision_feature_layer=layer)
        assert torch.equal(features, features_of(stock, "get_image_features", inputs, vision_feature_layer=layer)[0])
        assert runs == list(range(num_needed))


@named_outputs
@pytest.mark.parametrize("read", ["-2", "[1, -4]", "-5"])
@pytest.mark.parametrize("tower", TOWER_CONFIGS)
@torch.no_grad()
def test_what_was_not_computed_is_none_and_all_else_stands_where_it_did(tower, read):
    vision_feature_layer, num_needed = READ[read]
    stock, ours = build_models(tower, "llava", vision_feature_layer)
    inputs = calls_of("llava")["get_image_features"]
    full = stock.model.get_image_features(**inputs, output_hidden_states=True)
    outputs = ours.model.get_image_features(**inputs)
    assert type(outputs) is type(full)
    assert outputs.last_hidden_state is None and "last_hidden_state" not in outputs
    assert len(outputs.hidden_states) == NUM_LAYERS + 1
    assert all(state is None for state in outputs.hidden_states[num_needed + 1 :])
    for index in [vision_feature_layer] if isinstance(vision_feature_layer, int) else vision_feature_layer:
        assert torch.equal(outputs.hidden_states[index], full.hidden_states[index])
    for state, expected in zip(outputs.hidden_states, full.hidden_states):
        assert state is None or torch.equal(state, expected)


def asked_by_call(model):
    return {"output_hidden_states": True}


def asked_by_config(model):
    model.config.output_hidden_states = True
    model.config.vision_config.output_hidden_states = True
    return {}


def asked_by_vision_config(model):
    model.config.vision_config.output_hidden_states = True
    return {}


def asked_for_attentions(model):
    model.set_attn_implementation("eager")
    return {"output_attentions": True}


def asked_for_a_tuple(model):
    return {"return_dict": False}


WISHES = [asked_by_call, asked_by_config, asked_by_vision_config, asked_for_attentions, asked_for_a_tuple]


@named_outputs
@pytest.mark.parametrize("ask", WISHES, ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("family", FAMILY_CLASSES)
@pytest.mark.parametrize("tower", TOWER_CONFIGS)
@torch.no_grad()
def test_who_asks_for_more_gets_what_the_stock_model_returns(tower, family, ask):
    models = build_models(tower, family)
    wishes, _ = [ask(model) for model in models]
    runs = count_runs(models[1])
    for method, inputs in calls_of(family).items():
        expected, outputs = (getattr(model.model, method)(**inputs, **wishes) for model in models)
        assert runs == list(range(NUM_LAYERS))
        runs.clear()
        expected, outputs = (one if isinstance(one, tuple) else one.to_tuple() for one in (expected, outputs))
        assert len(outputs) == len(expected)
        assert_equal(outputs, expected)


def assert_equal(one, other):
    """Nested tuples and lists hold the same; frames of a video may be one after another, or a dimension."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        assert torch.equal(one.flatten(0, -2), other.flatten(0, -2))
    elif one is None or other is None:
        assert one is other
    else:
        for part, expected in zip(one, other, strict=True):
            assert_equal(part, expected)


@pytest.mark.parametrize("tower", TOWER_CONFIGS)
def test_gradients_are_the_stock_models(tower):
    stock, ours = build_models(tower, "llava", [-2, 1])
    inputs = calls_of("llava")["get_image_features"]
    for model in (stock, ours):
        torch.cat(features_of(model.train(), "get_image_features", inputs)).square().sum().backward()
    expected = {name: parameter.grad for name, parameter in stock.named_parameters()}
    for name, parameter in ours.named_parameters():
        gradient = expected.pop(name)
        assert (parameter.grad is None) == (gradient is None), name
        assert gradient is None or torch.equal(parameter.grad, gradient), name
    assert not expected


@torch.no_grad()
def test_weights_and_copies_are_those_of_any_model():
    stock, ours = build_models()
    assert list(ours.state_dict()) == list(stock.state_dict())
    inputs = calls_of("llava")["get_image_features"]
    expected = features_of(stock, "get_image_features", inputs)
    for made in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        runs = count_runs(made)
        assert torch.equal(features_of(made, "get_image_features", inputs)[0], expected[0])
        assert runs == [0, 1, 2]


@pytest.mark.parametrize("tower", TOWER_CONFIGS)
@torch.no_grad()
def test_the_tower_alone_is_the_stock_tower(tower):
    stock, ours = build_models(tower)
    pixels = calls_of("llava")["get_image_features"]["pixel_values"]
    expected = stock.model.vision_tower(pixels, output_hidden_states=True)

    def check():
        outputs = ours.model.vision_tower(pixels, output_hidden_states=True)
        assert torch.equal(outputs.last_hidden_state, expected.last_hidden_state)
        assert torch.equal(outputs.pooler_output, expected.pooler_output)
        assert len(outputs.hidden_states) == NUM_LAYERS + 1

    check()
    ours.model.get_image_features(pixel_values=pixels)
    check()
    with pytest.raises((RuntimeError, ValueError)):
        ours.model.get_image_features(pixel_values=pixels[:, :2])
    check()  # a call that failed left nothing behind
    with pytest.raises(IndexError):
        ours.model.get_image_features(pixel_values=pixels, vision_feature_layer=-9)
    check()


def prompts(model):
    ids = torch.full((2, 3 + 36), IMAGE_TOKEN_ID)
    ids[:, [0, 37, 38]] = torch.tensor([[1, 9, 10], [1, 11, 12]])
    pixels = calls_of("llava")["get_image_features"]["pixel_values"]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@pytest.mark.parametrize("tower", TOWER_CONFIGS)
@torch.no_grad()
def test_logits_and_answers_at_ratio_one_are_the_stock_models(tower):
    stock, ours = build_models(tower)
    inputs, runs = prompts(ours), count_runs(ours)
    assert torch.equal(ours(**inputs).logits, stock(**inputs).logits)
    assert runs == [0, 1, 2]
    arguments = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": [IMAGE_TOKEN_ID], "num_beams": 2}
    assert torch.equal(ours.generate(**inputs, **arguments), stock.generate(**inputs, **arguments))
    assert runs == [0, 1, 2] * 2


@torch.no_grad()
def test_picks_read_no_layer_above_either():
    _, ours = build_models()
    runs = count_runs(ours)
    pixels = calls_of("llava")["get_image_features"]["pixel_values"]
    ours.config.divprune_config = type(ours.config.divprune_config)(num_tokens=5)
    assert [len(picks) for picks in ours.select_image_tokens(pixel_values=pixels)] == [5, 5]
    assert runs == [0, 1, 2]


@torch.no_grad()
def test_threads_that_read_different_layers_do_not_mix():
    _, ours = build_models()
    inputs = calls_of("llava")["get_image_features"]
    alone = [features_of(ours, "get_image_features", inputs, vision_feature_layer=layer) for layer in (-4, -2)]
    # Between the moment a call says what it reads and the one the layers are counted: let the other run then.
    ours.model.vision_tower.register_forward_pre_hook(lambda *arguments: time.sleep(1e-4))
    start = Barrier(2)

    def ask(i):
        start.wait()
        with torch.no_grad():
            found = (
                features_of(ours, "get_image_features", inputs, vision_feature_layer=(-4, -2)[i]) for _ in range(100)
            )
            return [all(torch.equal(*pair) for pair in zip(features, alone[i])) for features in found]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, range(2))) == [[True] * 100] * 2


def graphs_hold_context_vars():
    """Torch 2.14 reads a ContextVar within a compiled graph; before, it breaks there."""
    try:
        return (
            torch.compile(lambda x: x if PROMPT.get() is None else -x, backend="eager", fullgraph=True)(torch.ones(1))
            == 1
        )
    except Exception:
        return False


needs_context_vars = pytest.mark.skipif(not graphs_hold_context_vars(), reason="this torch breaks at a ContextVar")


@needs_context_vars
@torch.no_grad()
def test_a_compiled_tower_follows_each_call():
    stock, ours = build_models()
    inputs = calls_of("llava")["get_image_features"]
    features_of(ours, "get_image_features", inputs)  # installs the hooks of transformers
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(sum("softmax" in str(node) or "attention" in str(node.target) for node in graph.graph.nodes))
        return graph

    ours.model.vision_tower.compile(backend=backend)
    for layer in (-2, -4, -1, -2, -4, -1):
        expected = features_of(stock, "get_image_features", inputs, vision_feature_layer=layer)
        features = features_of(ours, "get_image_features", inputs, vision_feature_layer=layer)
        assert torch.equal(features[0], expected[0])
    assert graphs == [3, 1, 4]  # one graph for each, with as many attentions as layers


@needs_context_vars
@pytest.mark.parametrize("call", ["features", "prefill"])
@torch.no_grad()
def test_no_graph_breaks_where_layers_are_counted(call):
    """The prefill tells its prompt by a ContextVar: the set breaks once, and its reset where one graph gets so far.

    How many layers are read goes along with it.
    """
    _, ours = build_models()
    torch._dynamo.reset()
    counters.clear()
    if call == "features":
        inputs = calls_of("llava")["get_image_features"]
        torch.compile(ours.model.get_image_features, backend="eager")(**inputs)
    else:
        torch.compile(ours, backend="eager")(**prompts(ours))
    breaks = [reason for reason in counters["graph_break"] if "ContextVar" in reason]
    assert all("divprune_prompt" in reason for reason in breaks)
    kinds = sorted("set" if ".set()" in reason else "reset" for reason in breaks)
    assert kinds in ([["set"], ["reset", "set"]] if call == "prefill" else [[]])


@torch.no_grad()
def test_the_tower_is_whole_again_before_the_language_model_runs():
    _, ours = build_models()
    inputs, runs = prompts(ours), count_runs(ours)

    def look(*arguments):
        ours.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)

    ours.model.language_model.register_forward_pre_hook(look)
    ours(**inputs)
    assert runs == [0, 1, 2, 0, 1, 2, 3]


@torch.no_grad()
def test_towers_that_are_not_known_run_to_their_end(monkeypatch):
    monkeypatch.setattr(unused_layers, "TOWERS", ())
    stock, ours = build_models()
    runs, inputs = count_runs(ours), calls_of("llava")["get_image_features"]
    expected = features_of(stock, "get_image_features", inputs)
    assert torch.equal(features_of(ours, "get_image_features", inputs)[0], expected[0])
    assert runs == [0, 1, 2, 3]


@torch.no_grad()
def test_another_tower_may_be_put_in_place():
    """A stock tower knows nothing of what is read, and is read as ever."""
    stock, ours = build_models()
    ours.model.vision_tower = copy.deepcopy(stock.model.vision_tower)
    runs, inputs = count_runs(ours), calls_of("llava")["get_image_features"]
    expected = features_of(stock, "get_image_features", inputs)
    assert torch.equal(features_of(ours, "get_image_features", inputs)[0], expected[0])
    assert runs == [0, 1, 2, 3]
