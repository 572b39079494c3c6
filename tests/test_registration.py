"""Importing the package takes no time, and registers its classes whatever is imported before or after."""

import os
import subprocess
import sys

import pytest

import divprune_hf
from divprune_hf.checkpoints.families import FAMILIES
from tests.helpers import warm_python


SECONDS = 0.5  # of the processor, beyond torch and transformers
COST = """
import resource, torch, transformers
def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
before = spent()
import divprune_hf
print(spent() - before)
"""
REGISTERED = """
import sys
{imports}
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
config = AutoConfig.from_pretrained(sys.argv[1])
classes = [type(config), type(AutoProcessor.from_pretrained(sys.argv[1]))]
classes += [type(auto.from_pretrained(sys.argv[1])) for auto in (AutoModel, AutoModelForImageTextToText)]
print(*(cls.__module__.split(".")[0] for cls in classes))
from divprune_hf import registration
print(*(type(finder).__name__ for finder in sys.meta_path if type(finder).__module__ == registration.__name__))
"""
IMPORTS = {
    "package first": "import divprune_hf",
    "package last": "from transformers import AutoModel, AutoProcessor\nimport divprune_hf",
    "package behind the configs": "from transformers import AutoConfig\nimport divprune_hf",
    "an exported class first": "from divprune_hf import DivPruneLlavaForConditionalGeneration",
    "a stock model first": "import divprune_hf\nfrom transformers import LlavaNextForConditionalGeneration",
}


def run(code, *arguments, start=subprocess.run, **options):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = start([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_the_import_costs_no_more_than_it_may():
    assert float(run(COST)) < SECONDS


@pytest.mark.parametrize("imports", IMPORTS.values(), ids=list(IMPORTS))
def test_the_auto_classes_know_ours_without_a_trust_flag(family, imports):
    output = run(REGISTERED.format(imports=imports), str(family.variant), start=warm_python.run, fresh=True)
    assert output.splitlines() == ["divprune_hf divprune_hf divprune_hf divprune_hf", ""]  # and the finder is gone


def test_every_exported_name_is_there_and_typed():
    types = (divprune_hf.__file__ or "").replace("__init__.py", "__init__.pyi")
    with open(types, encoding="utf-8") as stream:
        text = stream.read()
    for name in divprune_hf.__all__:
        assert getattr(divprune_hf, name) is not None and f"{name}" in text and name in dir(divprune_hf)
    for name in divprune_hf.OF_LATE_FAMILIES:
        assert f"{name}" in text and name in dir(divprune_hf) and name not in divprune_hf.__all__
        if FAMILIES["llava_onevision"].is_supported:
            assert getattr(divprune_hf, name) is not None
        else:
            with pytest.raises(ImportError, match="llava_onevision need transformers 5.20 or later"):
                getattr(divprune_hf, name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        divprune_hf.nothing  # noqa: B018
