"""The canary: with everything kept, both ways to load a folder give the stock model's logits, bit for bit.

Others' published code has broken silently before: weights drawn anew on loading, masks wrong after an upgrade.
"""

import json

import pytest
import torch
from transformers import AutoProcessor

from divprune_hf.remote_code.transformers_surface import TESTED_TRANSFORMERS
from tests.helpers.oracle import first_logits, stock_of
from tests.helpers.tiny_answers import load


pytestmark = pytest.mark.modeling
EVERYTHING = {"retention_ratio": 1.0}
EVERYTHING_OF_VIDEOS = {**EVERYTHING, "video_retention_ratio": 1.0}

REMOTE = """
import torch
from transformers import AutoModelForImageTextToText
torch.set_num_threads(1)
folder, file = sys.argv[1:]
inputs, budget = torch.load(file)
model = AutoModelForImageTextToText.from_pretrained(
    folder, trust_remote_code=True, dtype=torch.float32, divprune_config=budget
).eval()
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
assert type(model.model).__module__.startswith("transformers_modules."), type(model.model).__module__
with torch.no_grad():
    logits = model(**inputs).logits
outputs = model.generate(**inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True)
torch.save((logits, outputs.logits[0]), file)
"""


def budget_of(case):
    return EVERYTHING_OF_VIDEOS if "videos" in case.media else EVERYTHING


@pytest.fixture
def expected(case):
    """The prompt, and the stock model's logits of `forward` and of `generate`."""
    inputs = case.inputs(AutoProcessor.from_pretrained(case.checkpoint.base))
    stock = stock_of(case)
    with torch.no_grad():
        return dict(inputs), stock(**inputs).logits, first_logits(stock, inputs)


def with_counts(case, inputs):
    """What our processor makes of the same prompt: the same, and the counts."""
    ours = case.inputs(AutoProcessor.from_pretrained(case.checkpoint.variant), **budget_of(case))
    assert all(torch.equal(ours[name], inputs[name]) for name in inputs)
    return dict(ours)


def test_the_imported_package_gives_the_stock_models_logits(case, expected):
    inputs, logits, first = expected
    model, _ = load(case.checkpoint, divprune_config=budget_of(case))
    assert type(model).__module__.startswith("divprune_hf.")
    for prompt in (inputs, with_counts(case, inputs)):
        with torch.no_grad():
            assert torch.equal(model(**prompt).logits, logits)
        assert torch.equal(first_logits(model, prompt), first)


def test_remote_code_in_a_bare_process_gives_the_stock_models_logits(case, expected, run_isolated, tmp_path):
    inputs, logits, first = expected
    file = tmp_path / "prompt.pt"
    torch.save((with_counts(case, inputs), budget_of(case)), file)
    run_isolated(REMOTE, case.checkpoint.variant, file, bare=True)
    remote_logits, remote_first = torch.load(file)
    assert torch.equal(remote_logits, logits) and torch.equal(remote_first, first)


def test_a_folder_says_what_its_code_was_tested_with(case):
    stored = json.loads((case.checkpoint.variant / "config.json").read_text())
    assert stored["divprune_tested_transformers"] == list(TESTED_TRANSFORMERS)


def test_saving_anew_says_what_the_saved_code_was_tested_with(case, tmp_path):
    model, _ = load(case.checkpoint)
    model.config.divprune_tested_transformers = ["4.0.0"]
    config = type(model.config).from_dict(model.config.to_dict())
    config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["divprune_tested_transformers"] == list(TESTED_TRANSFORMERS)
