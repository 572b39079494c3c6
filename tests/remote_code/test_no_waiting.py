"""From the launch of the vision tower to that of the language model `forward` reads nothing back: no GPU runs dry."""

from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from divprune_hf.benchmarks.models import build_inputs
from divprune_hf.benchmarks.shapes import Shape
from divprune_hf.checkpoints.families import FAMILIES
from divprune_hf.remote_code import fast_distances, max_min_fast
from divprune_hf.remote_code.compat_generation import ENCODES_FIRST
from tests.helpers.devices import needs_cuda_build, needs_gpu
from tests.helpers.tiny_models import FAMILY_CLASSES, tiny_config


pytestmark = pytest.mark.modeling
SHAPES = {
    "llava": Shape("llava", num_available=36),
    # The base view, four crops and the newlines of their 12 rows.
    "llava_next": Shape("llava_next", num_available=36 + 144 + 12),
    "llava_next_video": Shape("llava_next_video", num_available=8 * 9),
}
# Families, and what their prompts bring: images or videos.
CASES = [
    ("llava", "llava"),
    ("llava_next", "llava_next"),
    ("llava_next_video", "llava_next"),
    ("llava_next_video", "llava_next_video"),
]
READS = {"item", "tolist", "cpu", "numpy", "nonzero", "masked_select", "equal"}
READS |= {"__bool__", "__int__", "__float__", "__index__", "unique", "repeat_interleave"}


def pruned_model(family):
    settings = {name: value for name, value in tiny_config(family=family).to_dict().items() if name != "model_type"}
    torch.manual_seed(0)
    return FAMILIES[family].head_class(FAMILIES[family].config_class(**settings)).eval()


def stock_model(family):
    torch.manual_seed(0)
    return FAMILY_CLASSES[family][1](tiny_config(family=family)).eval()


def between_the_towers(model, enter, leave):
    """Call `enter` when the vision tower is about to run, `leave` when the language model is."""
    inner = model.model
    inner.vision_tower.register_forward_pre_hook(lambda *arguments: enter())
    inner.language_model.register_forward_pre_hook(lambda *arguments: leave())


class Reads(TorchFunctionMode):
    """The calls by which Python asks for values of tensors while `watching`."""

    def __init__(self):
        super().__init__()
        self.watching, self.windows, self.seen = False, 0, []

    def open(self):
        self.watching = True

    def close(self):
        self.windows += self.watching
        self.watching = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        indices = args[1] if name in ("__getitem__", "__setitem__") else ()
        indices = indices if isinstance(indices, tuple) else (indices,)
        picks_by_mask = any(getattr(index, "dtype", None) == torch.bool for index in indices)
        if self.watching and (name in READS or picks_by_mask):
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


def reads_of(model, inputs, call):
    reads = Reads()
    between_the_towers(model, reads.open, reads.close)
    with reads, torch.no_grad():
        call(model, inputs)
    assert reads.windows == 1
    return reads.seen


def generate(model, inputs):
    model.generate(**inputs, do_sample=False, max_new_tokens=2, min_new_tokens=2, pad_token_id=0)


def forward(model, inputs):
    model(**inputs)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The selection as it is where reading a value would wait; on a CPU it reads some, which costs nothing."""
    for module in (fast_distances, max_min_fast):
        monkeypatch.setattr(module, "may_be_read", lambda features: False)


def reads(make_model, family, media, call, budget):
    model = make_model(family)
    inputs = build_inputs(SHAPES[media], model.config, 2, budget, torch.device("cpu"), torch.float32)
    return reads_of(model, inputs, call)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(("family", "media"), CASES)
def test_forward_reads_nothing_between_the_towers(family, media):
    assert reads(pruned_model, family, media, forward, 0.25) == []


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(("family", "media"), CASES)
def test_generate_reads_nothing_between_the_towers_that_the_stock_model_does_not_read(family, media):
    """From transformers 5.23 on `generate` encodes first, and its own checks read the prompt afterwards."""
    ours, stock = (
        Counter(reads(make_model, family, media, generate, budget))
        for make_model, budget in ((pruned_model, 0.25), (stock_model, None))
    )
    assert ours <= stock and stock
    assert ENCODES_FIRST or not ours


class Copies(TorchDispatchMode):
    """Copies between devices that the host waits for."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result, kwargs = operator(*args, **(kwargs or {})), kwargs or {}
        if operator.name() in ("aten::_to_copy", "aten::copy_"):
            source = args[operator.name() == "aten::copy_"]
            is_asynchronous = kwargs.get("non_blocking", args[2:] == (True,))
            if source.device.type != result.device.type and not is_asynchronous:
                self.seen.append((operator.name(), tuple(source.shape)))
        return result


def copies_of(make_model, family, media, device, **budget):
    """The copies of one look at an image or a video on a device that need not be here."""
    with FakeTensorMode(), torch.no_grad():
        with torch.device(device):
            model = make_model(family)
            inputs = build_inputs(SHAPES[media], model.config, 2, None, torch.device(device), torch.float32)
        with Copies() as copies:  # reading a value would raise: a fake tensor has none
            if media == "llava_next_video":
                model.model.get_video_features(inputs["pixel_values_videos"], **budget)
            else:
                sizes = {"image_sizes": [[48, 48], [48, 48]]} if media == "llava_next" else {}
                model.model.get_image_features(inputs["pixel_values"], **sizes, **budget)
    return copies.seen


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda_build)])
@pytest.mark.parametrize(("family", "media"), CASES)
def test_nothing_is_copied_or_read_between_the_pixels_and_the_kept_features(family, media, device):
    counts = "num_video_tokens_kept" if media == "llava_next_video" else "num_image_tokens_kept"
    assert copies_of(pruned_model, family, media, device, **{counts: [9, 4]}) == []


@needs_cuda_build
def test_what_the_stock_model_copies_is_seen():
    assert copies_of(stock_model, "llava_next", "llava_next", "cuda") != []


# Not for videos: the stock forward makes a tensor of their lengths on the device, and waits for it.
@needs_gpu
@pytest.mark.parametrize("call", [forward] if ENCODES_FIRST else [generate, forward])
@pytest.mark.parametrize(("family", "media"), [case for case in CASES if case[1] != "llava_next_video"])
def test_a_gpu_is_never_waited_for_between_the_towers(family, media, call):
    model = pruned_model(family).to("cuda", torch.bfloat16)
    inputs = build_inputs(SHAPES[media], model.config, 2, 0.25, torch.device("cuda"), torch.bfloat16)
    call(model, inputs)  # compiles the Triton programs
    between_the_towers(
        model,
        enter=lambda: torch.cuda.set_sync_debug_mode("error"),
        leave=lambda: torch.cuda.set_sync_debug_mode("default"),
    )
    try:
        call(model, inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
