"""Two threads with different budgets share one model: each gets what it gets alone."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from tests.helpers.tiny_answers import load


pytestmark = pytest.mark.modeling
NUM_CALLS = 200


def test_threads_with_different_budgets_do_not_mix(case):
    model, processor = load(case.checkpoint)
    videos = {"video_num_tokens": 3} if model.config.takes_videos else {}
    prompts = [case.inputs(processor, num_tokens=num_tokens, **videos) for num_tokens in (4, 9)]
    # The second prompt brings no counts: it is the config that decides there, in the same way at all times.
    model.config.divprune_config = type(model.config.divprune_config)(
        num_tokens=9, **({"video_num_tokens": 3} if videos else {})
    )
    del prompts[1]["num_image_tokens_kept"]
    with torch.no_grad():
        alone = [model(**prompt).logits for prompt in prompts]
    start = Barrier(2)
    # The embedding comes between the moment the prompt is told and the one it is asked for: let the others run then.
    model.get_input_embeddings().register_forward_pre_hook(lambda *arguments: time.sleep(1e-4))

    def ask(i):
        start.wait()
        with torch.no_grad():
            return [torch.equal(model(**prompts[i]).logits, alone[i]) for _ in range(NUM_CALLS)]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, range(2))) == [[True] * NUM_CALLS] * 2


def test_threads_generate_what_they_generate_alone(family, photos):
    model, processor = load(family)
    prompts = [processor(images=photos[:1], text="w1 <image> w2", num_tokens=n, return_tensors="pt") for n in (3, 11)]
    arguments = {"max_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    alone = [model.generate(**prompt, **arguments).logits[0] for prompt in prompts]

    def ask(i):
        return all(torch.equal(model.generate(**prompts[i], **arguments).logits[0], alone[i]) for _ in range(20))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, range(2))) == [True, True]
