"""Offline engines of vLLM, one after another: `python -m tests.helpers.vllm_jobs JOBS.json ANSWERS.json`.

A process of its own: it does not share the engines' processes and threads with the tests. JOBS.json lists jobs by name:
the arguments of `LLM`, requests, which are asked `rounds` times, all at once, and bad requests, which are asked one by
one, each before a good one. ANSWERS.json gets what each job answered, or the error of its start.
"""

import json
import os
import sys
from pathlib import Path

from PIL import Image


ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "gpu_memory_utilization": 0.2,  # of a CPU's memory here
    "block_size": 32,
    "limit_mm_per_prompt": {"image": 3},
}
MAX_TOKENS = 6


def answers_of(job):
    """Start an engine, and return its answers and the errors of bad requests."""
    from vllm import LLM, SamplingParams

    os.environ.update(job.get("environment", {}))
    arguments = {**ENGINE, **job["arguments"]}
    if job.get("overrides_by_function"):
        arguments["hf_overrides"] = override_by_function
    try:
        llm = LLM(**arguments)
    except Exception as error:
        return {"error": said_by(error)}
    sampling = SamplingParams(temperature=0, max_tokens=MAX_TOKENS)

    def ask(requests):
        outputs = llm.generate(list(map(prompt_of, requests)), sampling, use_tqdm=False)
        return [
            {
                "prompt": len(output.prompt_token_ids),
                "tokens": list(output.outputs[0].token_ids),
                "cached": output.num_cached_tokens,
            }
            for output in outputs
        ]

    rounds, refused = [ask(job["requests"]) for _ in range(job.get("rounds", 1))], []
    for request in job.get("bad", []):
        try:
            refused.append({"answer": ask([request])})
        except Exception as error:
            refused.append({"error": said_by(error), "next": ask(job["requests"][:1])[0]})
    return {"rounds": rounds, "refused": refused}


def prompt_of(request):
    """Return a prompt as vLLM takes it."""
    prompt = {"prompt": request["text"]}
    if request["pictures"]:
        prompt["multi_modal_data"] = {"image": [Image.open(path) for path in request["pictures"]]}
    if request["budget"]:
        prompt["mm_processor_kwargs"] = request["budget"]
    return prompt


def said_by(error):
    """Return the lines of an error and of its causes, the outermost first."""
    lines = []
    while error is not None:
        lines.append(f"{type(error).__name__}: {error}")
        error = error.__cause__
    return lines


def override_by_function(config):
    """Give the model another budget, past what checks the names of settings."""
    if hasattr(config, "divprune_config"):
        config.divprune_config = type(config.divprune_config)(num_tokens=9)
    return config


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps({name: answers_of(job) for name, job in jobs.items()}))
