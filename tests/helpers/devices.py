"""What a test needs a device for."""

import importlib.util

import pytest
import torch


def needs_gpu(test):
    """Skip a test without a GPU, and mark it as one of `pytest -m gpu`."""
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")(test))


needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
# Fake tensors on a GPU need none, but a build of torch that knows what one is.
needs_cuda_build = pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
