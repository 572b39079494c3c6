"""Tables 1 and 2 of the DivPrune paper as data (arXiv 2503.02175): its figures, and how lmms-eval measures them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dataset:
    """A column of the paper's tables.

    Args:
        title: its name there.
        table: the number of the table.
        metrics: lmms-eval's task and metric; of several the mean is taken.
        scale: what lmms-eval's figure is multiplied with.
        model_args: arguments of the model `divprune_hf` besides model and budget.
        needs: what it takes besides the data.
    """

    title: str
    table: int
    metrics: tuple[tuple[str, str], ...]
    scale: float = 1
    model_args: str = ""
    needs: str = ""

    @property
    def tasks(self) -> list[str]:
        """The tasks of lmms-eval, each once."""
        return list(dict.fromkeys(task for task, _ in self.metrics))


@dataclass(frozen=True)
class Model:
    """A row of the paper's tables.

    Args:
        title: its name there.
        table: the number of the table.
        repo_id: the Hub repo in transformers' layout.
        original: its figures with all visual tokens, as the paper prints them, by dataset.
        pruned: the same with DivPrune.
    """

    title: str
    table: int
    repo_id: str
    original: dict[str, str]
    pruned: dict[str, str]


JUDGE = "a judge at OpenAI (OPENAI_API_KEY)"
CAPTIONS = "pycocoevalcap, Java"

DATASETS = {
    "coco": Dataset("COCO", 1, (("coco2017_cap_val", "coco_CIDEr"),), needs=CAPTIONS),
    "flickr": Dataset("Flickr", 1, (("flickr30k_test", "flickr_CIDEr"),), needs=CAPTIONS),
    "gqa": Dataset("GQA", 1, (("gqa", "exact_match"),), scale=100),
    "mmbench": Dataset("MMB", 1, (("mmbench_en_dev", "gpt_eval_score"),), needs=JUDGE),
    "mme": Dataset("MME-P", 1, (("mme", "mme_perception_score"),)),
    "mmmu": Dataset("MMMU", 1, (("mmmu_val", "mmmu_acc"),), scale=100),
    "nocaps": Dataset("Nocaps", 1, (("nocaps_val", "nocaps_CIDEr"),), needs=CAPTIONS),
    "okvqa": Dataset("OKVQA", 1, (("ok_vqa_val2014", "exact_match"),), scale=100),
    "pope": Dataset("POPE", 1, (("pope", "pope_f1_score"),), scale=100),
    "sqa": Dataset("SQA", 1, (("scienceqa_img", "exact_match"),), scale=100),
    "seed": Dataset("SEED", 1, (("seedbench", "seed_image"),), scale=100),
    "activitynet": Dataset("ActivityNet", 2, (("activitynetqa", "gpt_eval_accuracy"),), needs=JUDGE),
    # lmms-eval gives SEED-Bench's videos as pictures.
    "seedvideo": Dataset("SeedBench", 2, (("seedbench", "seed_video"),), scale=100, model_args="frames_of_video=true"),
    "videochatgpt": Dataset(
        "VideoChatGPT",
        2,
        (
            ("videochatgpt_gen", "gpt_eval_score_correctness"),
            ("videochatgpt_gen", "gpt_eval_score_detailed_orientation"),
            ("videochatgpt_gen", "gpt_eval_score_context"),
            ("videochatgpt_temporal", "gpt_eval_score_temporal"),
            ("videochatgpt_consistency", "gpt_eval_score_consistency"),
        ),
        needs=JUDGE,
    ),
    "nextqa": Dataset("NextQA", 2, (("nextqa_oe_test", "WUPS"),), needs="pywsd, NLTK's WordNet"),
    "egoschema": Dataset("EgoSchema", 2, (("egoschema_subset", "score"),), scale=100),
}


def figures(table: int, text: str) -> dict[str, str]:
    """Return a row of the paper as it is printed, by dataset."""
    names = [name for name, dataset in DATASETS.items() if dataset.table == table]
    return dict(zip(names, text.split(), strict=True))


MODELS = {
    "llava-1.5-7b": Model(
        "LLaVA-1.5-7B",
        1,
        "llava-hf/llava-1.5-7b-hf",
        figures(1, "1.10 .75 61.96 64.09 1506 36.44 1.06 53.39 85.84 69.41 66.17"),
        figures(1, ".96 .62 56.85 59.19 1328 35.89 .92 46.98 86.02 68.27 59.47"),
    ),
    "llava-1.5-13b": Model(
        "LLaVA-1.5-13B",
        1,
        "llava-hf/llava-1.5-13b-hf",
        figures(1, "1.16 .80 63.33 68.64 1522 35.67 1.09 58.28 85.99 72.88 66.82"),
        figures(1, "1.00 .66 57.29 63.40 1407 34.89 .95 53.29 83.43 72.34 62.04"),
    ),
    "llava-1.6-7b": Model(
        "LLaVA-1.6-7B",
        1,
        "llava-hf/llava-v1.6-vicuna-7b-hf",
        figures(1, "1.00 .68 64.28 67.01 1520 36.44 .88 44.20 86.38 70.15 70.16"),
        figures(1, ".89 .61 58.69 63.49 1362 37.11 .76 41.92 82.97 68.57 64.11"),
    ),
    "llava-next-video-7b": Model(
        "LLaVA-NeXT-Video-7B",
        2,
        "llava-hf/LLaVA-NeXT-Video-7B-hf",
        figures(2, "48.10 38.7 2.16 26.05 41.8"),
        figures(2, "45.90 37.00 1.92 24.48 39.76"),
    ),
}

# Budgets and orders by the number of the table: what is measured, and whether it stands beside the pruned figures.
SETTINGS = {
    "all": {1: "retention_ratio=1.0", 2: "video_retention_ratio=1.0"},
    "selection": {1: "retention_ratio=0.098,order=selection", 2: "video_retention_ratio=0.1,order=selection"},
    "raster": {1: "retention_ratio=0.098,order=raster", 2: "video_retention_ratio=0.1,order=raster"},
}
LABELS = {
    "all": "all tokens",
    "selection": "DivPrune, in the order of picking (the paper's table)",
    "raster": "DivPrune, in the picture's order (the default here)",
}
