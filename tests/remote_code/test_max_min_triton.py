"""The Triton programs: in Triton's interpreter, compiled for GPUs that are not here, and on one that is.

Without a GPU: `pip install --no-deps triton==3.9.0` beside a CPU build of torch.
"""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import pytest
import torch

from divprune_hf import select_diverse_tokens
from divprune_hf.remote_code import max_min_fast, max_min_triton
from divprune_hf.remote_code.max_min_fast import select_diverse_tokens_of_images
from tests.helpers import warm_python
from tests.helpers.devices import needs_gpu, needs_triton
from tests.helpers.ragged_batches import check_parity, ragged_batch
from tests.naive_max_min import is_greedy


ROOT = Path(__file__).parents[2]


@needs_triton
def test_the_interpreted_programs_compute_and_pick_what_torch_does():
    command = [sys.executable, "-m", "tests.helpers.ragged_batches", "50"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.stdout == "51 batches\n", result.stderr[-2000:]


def compile_for(capability, program, pointers, constants, num_warps):
    """One of the programs for a GPU that need not be here, and all its pointers and constants by name."""
    import triton
    from triton.backends.compiler import GPUTarget

    source = triton.compiler.ASTSource(
        max_min_triton.compiled_programs()[program],
        signature={**pointers, "size": "i32", **dict.fromkeys(constants, "constexpr")},
        constexprs=constants,
    )
    return triton.compile(
        source, GPUTarget("cuda", capability, 32), options={"num_warps": num_warps, "enable_fp_fusion": False}
    )


@pytest.fixture
def triton_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["*fp32", "*fp64"])
@pytest.mark.parametrize("ascending", [True, False], ids=["ascending", "in order of picking"])
@pytest.mark.parametrize(("tokens", "num_warps"), [(1, 1), (1024, 4), (8192, 16)])
def test_the_program_of_the_picks_compiles(capability, dtype, ascending, tokens, num_warps, triton_cache):
    pointers = {**dict.fromkeys(("distances", "nearest", "ceiling"), dtype), "picks": "*i64", "counts": "*i64"}
    constants = {"ASCENDING": ascending, "IMAGES": 4, "TOKENS": tokens}
    compiled = compile_for(capability, 1, pointers, constants, num_warps)
    assert f".target sm_{capability}" in compiled.asm["ptx"]
    assert len(compiled.asm["cubin"]) > 0


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["*fp32", "*fp64"])
@pytest.mark.parametrize(("tokens", "num_warps"), [(1, 1), (1024, 4), (8192, 8)])
def test_the_program_of_the_distances_compiles(capability, dtype, tokens, num_warps, triton_cache):
    pointers = dict.fromkeys(("products", "inverse_norm", "is_zero", "ceiling", "nearest"), dtype)
    compiled = compile_for(capability, 0, pointers, {"NOISE": 2.0**-20, "TOKENS": tokens}, num_warps)
    assert f".target sm_{capability}" in compiled.asm["ptx"]
    assert "fma." not in compiled.asm["ptx"]  # torch rounds after the multiplication, too
    assert len(compiled.asm["cubin"]) > 0


def test_triton_is_imported_only_once_it_is_needed():
    code = (
        "import torch\nfrom divprune_hf import select_diverse_tokens\n"
        "from divprune_hf.remote_code import max_min_triton\n"
        "select_diverse_tokens(torch.randn(9, 4), 3)\nassert max_min_triton.tl is None"
    )
    result = warm_python.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_a_cpu_never_runs_the_programs():
    assert not max_min_triton.runs_on(torch.zeros(1, 4, 4))


@needs_gpu
@needs_triton
def test_parity_on_a_thousand_ragged_batches():
    assert max_min_triton.can_launch_on(torch.device("cuda", 0))
    for seed in range(1000):
        features, kept = ragged_batch(seed, most_images=12, most_tokens=600)
        check_parity([image.cuda() for image in features], kept)


@needs_gpu
@needs_triton
def test_the_largest_image_fits_one_program():
    features = [torch.randn(max_min_triton.LARGEST_PROGRAM, 64, device="cuda"), torch.randn(9, 64).cuda()]
    check_parity(features, [819, 9])


@pytest.fixture(params=["triton", "torch"])
def path(request):
    """Each way to select on a GPU."""
    if request.param == "torch":
        with mock.patch.object(max_min_triton, "can_launch_on", lambda device: False):
            yield
    else:
        pytest.importorskip("triton")
        yield


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("order", ["raster", "selection"])
def test_selection_on_a_gpu_never_waits_for_it(path, dtype, order):
    features = [torch.randn(m, 512, device="cuda", dtype=dtype) for m in (576, 40, 1152, 7)]
    expected = select_diverse_tokens_of_images(features, [56, 4, 115, 7], order)  # compiles the programs
    torch.cuda.set_sync_debug_mode("error")
    try:
        picks = select_diverse_tokens_of_images(features, [56, 4, 115, 7], order)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(map(torch.equal, picks, expected))


@needs_gpu
def test_a_cuda_graph_selects_from_what_it_is_given(path):
    static = [torch.randn(m, 512, device="cuda", dtype=torch.bfloat16) for m in (576, 40)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        select_diverse_tokens_of_images(static, [56, 4])
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        picks = select_diverse_tokens_of_images(static, [56, 4])
    for image in static:
        image.normal_()
    expected = [indices.clone() for indices in select_diverse_tokens_of_images(static, [56, 4])]
    graph.replay()
    assert all(map(torch.equal, picks, expected))


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_picks_of_a_gpu_are_greedy_alone_and_in_a_batch(path, dtype):
    features = [torch.randn(m, 512).to("cuda", dtype) for m in (301, 100)]
    picks = select_diverse_tokens_of_images(features, [30, 10], "selection")
    for image, indices in zip(features, picks):
        assert torch.equal(select_diverse_tokens(image, len(indices), "selection"), indices)
        assert is_greedy(image.cpu(), indices.tolist(), tolerance=1e-5)


@needs_gpu
@needs_triton
def test_a_gpu_selects_with_triton():
    """Falling back to torch is allowed, but must not go unseen on a machine that the figures come from."""
    features = [torch.randn(m, 64, device="cuda") for m in (200, 100)]
    with mock.patch.object(max_min_fast, "pick_greedily", side_effect=AssertionError("torch picked")):
        picks = select_diverse_tokens_of_images(features, [20, 10])
    assert [len(indices) for indices in picks] == [20, 10]


@needs_gpu
@needs_triton
def test_a_gpu_that_triton_cannot_use_selects_with_torch():
    features = torch.randn(200, 64, device="cuda")
    expected = select_diverse_tokens(features, 20)
    max_min_triton.can_launch_on.cache_clear()
    with (
        mock.patch.object(max_min_triton, "pick_with_triton", side_effect=RuntimeError("no compiler")),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        assert torch.equal(select_diverse_tokens(features, 20), expected)
    max_min_triton.can_launch_on.cache_clear()
    assert any("no compiler" in str(warning.message) for warning in caught)
