"""lmms-eval's model `divprune_hf`: a variant, or a stock base that is pruned in memory.

    lmms-eval --model divprune_hf --model_args pretrained=MODEL,num_tokens=64 --tasks pope --batch_size 8

lmms-eval catches the errors of a run, prints them and exits with 0. An error of this model ends the process with 1.
"""

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from divprune_hf.checkpoints.hub_errors import redact
from divprune_hf.common.printable import one_line


LONGEST_ANSWER = 1024  # where a task names none, as in lmms-eval's own models


def manifest() -> ModelManifest:
    """Return lmms-eval's entry for the model: an entry point of the package names this function."""
    return ModelManifest("divprune_hf", simple_class_path=f"{__name__}.DivPruneHf")


@contextmanager
def failures_end_the_run() -> Iterator[None]:
    """End the process where something fails: lmms-eval catches every `Exception`, but no `SystemExit`."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        raise SystemExit(f"divprune_hf: error: {one_line(redact(str(error))) or type(error).__name__}") from error


class DivPruneHf(lmms):
    """A pruned model under lmms-eval.

    Args:
        pretrained: a variant or a stock base; a folder, or the id of a Hub repo.
        revision: branch, tag or commit of a Hub repo.
        device: such as "cpu" or "cuda:0"; by default wherever there is room, or with several processes the device of
            each.
        dtype: a dtype of torch, such as "bfloat16", or "auto" for the checkpoint's.
        batch_size: questions at a time.
        num_frames: how many frames of a video file are read.
        frames_of_video: several pictures of one question are the frames of one video, as SEED-Bench gives its videos.
        system_prompt: what the system says in front of each question: a text, or a file that holds it.
        settings: those of `DivPruneConfig`, by name, such as `num_tokens=64`.
    """

    is_simple = True

    def __init__(
        self,
        *,
        pretrained: str = "",
        revision: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 1,
        num_frames: int = 8,
        frames_of_video: bool = False,
        system_prompt: str = "",
        **settings: Any,
    ) -> None:
        super().__init__()
        with failures_end_the_run():
            from accelerate import Accelerator

            from divprune_hf.inference.ask import check_takes_videos
            from divprune_hf.inference.loading import load_pruned

            if not pretrained:  # without a default of its own lmms-eval would swallow Python's error
                raise ValueError("Got no model, expected one: --model_args pretrained=MODEL.")
            self.batch_size = batch_size_of(batch_size)
            self.num_frames, self.frames_of_video = num_frames, frames_of_video
            self.system_prompt = self._resolve_system_prompt(system_prompt)
            self.accelerator = Accelerator()
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
            if self._world_size > 1:
                device = str(self.accelerator.device)
            source = {
                "revision": None if revision is None else str(revision),
                "device": device,
                "dtype": dtype_of(dtype),
            }
            self.model: Any
            self.processor: Any
            self.model, self.processor = load_pruned(str(pretrained), **source, **settings)
            if frames_of_video:
                check_takes_videos(self.processor.takes_videos, str(pretrained))

    @property
    def device(self) -> Any:
        """The device of the model's inputs."""
        return self.model.device

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Return an answer to each request, with the lengths of its prompt and of itself in tokens."""
        from tqdm.auto import tqdm

        with failures_end_the_run():
            answers: list[Any] = [None] * len(requests)
            with tqdm(total=len(requests), desc="divprune_hf", disable=self.rank != 0) as progress:
                for batch in batches(requests, self.batch_size):
                    rows = [self._row(requests[index]) for index in batch]
                    for part in alike(rows):
                        kwargs = requests[batch[part[0]]].args[1]
                        for place, answer in zip(part, self._answer([rows[place] for place in part], kwargs)):
                            answers[batch[place]] = answer
                    progress.update(len(batch))
            return answers

    def loglikelihood(self, requests: list[Instance]) -> Any:
        """End the run: only generated answers are scored."""
        with failures_end_the_run():
            raise ValueError("Got a task that scores given answers, expected one of the output type generate_until.")

    def generate_until_multi_round(self, requests: list[Instance]) -> Any:
        """End the run: one question gets one answer."""
        with failures_end_the_run():
            raise ValueError("Got a task of several rounds, expected one of the output type generate_until.")

    def _row(self, request: Instance) -> dict[str, Any]:
        """Return a request as prompt, pictures and videos."""
        from PIL import Image

        from divprune_hf.inference.pictures import read_picture
        from divprune_hf.inference.videos import is_video, read_video

        context, _, doc_to_visual, doc_id, task, split = request.args
        visuals = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        images: list[Image.Image] = []
        videos: list[Any] = []
        for visual in visuals:
            if isinstance(visual, Image.Image):
                images.append(visual.convert("RGB"))
            elif not isinstance(visual, str):
                raise ValueError(f"Got a {type(visual).__name__} in {task}, expected pictures or files of them.")
            elif is_video(visual):
                videos.append(read_video(visual, self.num_frames))
            else:
                images.append(read_picture(visual))
        if self.frames_of_video and len(images) > 1:
            images, videos = [], [*videos, as_frames(images)]
        return {"text": self._prompt(context, len(images), len(videos)), "images": images, "videos": videos}

    def _prompt(self, context: str, num_images: int, num_videos: int) -> str:
        """Return a question in the model's chat format.

        Placeholders that a task wrote stand where they are if there is one for each picture, as MMMU has them. Else
        they are text, and the question follows its pictures.
        """
        from divprune_hf.inference.ask import as_plain_text, in_chat_format, special_tokens

        special = special_tokens(self.processor.tokenizer)
        media = ["image"] * num_images + ["video"] * num_videos
        if not num_videos and num_images and context.count(self.processor.image_token) == num_images:
            special.remove(self.processor.image_token)
            media = []
        return in_chat_format(self.processor, media, as_plain_text(context, special), self.system_prompt or None)

    def _answer(self, rows: list[dict[str, Any]], kwargs: dict[str, Any]) -> list[GenerationResult]:
        """Return the answers to a batch of questions that one set of generation arguments holds for."""
        import torch

        media = {name: [entry for row in rows for entry in row[name]] for name in ("images", "videos")}
        given = {name: entries for name, entries in media.items() if entries}
        if "videos" in given and not self.processor.takes_videos:
            raise ValueError("Got a task about videos for a model that takes pictures only: use LLaVA-NeXT-Video.")
        texts = [row["text"] for row in rows]
        tokenizer = self.processor.tokenizer
        inputs = self.processor(text=texts, **given, padding=True, padding_side="left", return_tensors="pt")
        num_input = inputs["attention_mask"].sum(1).tolist()
        inputs = inputs.to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            output = self.model.generate(**inputs, **generation_kwargs(kwargs))
        new_tokens = output[:, inputs["input_ids"].shape[1] :]
        num_output = (new_tokens != tokenizer.pad_token_id).sum(1).tolist()
        texts = tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
        return [
            GenerationResult(shortened(text, kwargs.get("until")), TokenCounts(before, after))
            for text, before, after in zip(texts, num_input, num_output)
        ]


def batch_size_of(batch_size: int | str) -> int:
    """Return a number of questions at a time, which lmms-eval gives as text."""
    if not str(batch_size).isdecimal() or int(batch_size) < 1:
        raise ValueError(f"Got batch_size={batch_size!r}, expected a number of at least 1.")
    return int(batch_size)


def dtype_of(name: str) -> Any:
    """Return the dtype of torch with a name, or "auto"."""
    import torch

    dtype = name if name == "auto" else getattr(torch, str(name), None)
    if dtype != "auto" and not isinstance(dtype, torch.dtype):
        raise ValueError(f"Got dtype={name}, expected auto or a dtype of torch such as bfloat16.")
    return dtype


def batches(requests: list[Instance], size: int) -> Iterator[list[int]]:
    """Yield indices of requests with the same generation arguments, long questions first: they waste little padding."""
    groups: dict[str, list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(index)
    for group in groups.values():
        group.sort(key=lambda index: -len(requests[index].args[0]))
        for start in range(0, len(group), size):
            yield group[start : start + size]


def alike(rows: list[dict[str, Any]]) -> list[list[int]]:
    """Return the places of rows in groups whose videos have equal numbers of frames, which one call must have."""
    groups: dict[Any, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(frozenset(len(video) for video in row["videos"]), []).append(place)
    return list(groups.values())


def as_frames(pictures: list[Any]) -> Any:
    """Return pictures as the frames of a video, all of the first one's size."""
    import numpy as np

    return np.stack([np.asarray(picture.resize(pictures[0].size)) for picture in pictures])


def generation_kwargs(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `generate` among those of a task, which also has some of other models."""
    from transformers import GenerationConfig

    known = {name: value for name, value in given.items() if value is not None and hasattr(GenerationConfig(), name)}
    sampled = bool(known.get("do_sample", True)) and known.get("temperature", 0) > 0
    for name in () if sampled else ("temperature", "top_p", "top_k"):
        known.pop(name, None)
    return {"max_new_tokens": LONGEST_ANSWER, **known, "do_sample": sampled}


def shortened(answer: str, until: str | list[str] | None) -> str:
    """Return an answer up to the first of the texts at which a task lets it end."""
    for stop in filter(None, [until] if isinstance(until, str) else until or []):
        answer = answer.split(stop)[0]
    return answer.strip()
