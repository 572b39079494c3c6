"""The console commands that evaluate a model: evaluate, diversity, nlvr-questions.

Only names are imported here. torch and matplotlib come with the modules that the handlers import.
"""

from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from divprune_hf.remote_code.selectors import SELECTORS
from divprune_hf.remote_code.settings import SETTINGS


# Those of `evaluation/baselines`, which import torch.
BASELINES = (
    "pool", "merge", "base_view", "prumerge", "fastv", "vtw", "fitprune", "max_min_l1", "max_min_l2", "max_min_random",
)  # fmt: skip


def add_commands(commands: "_SubParsersAction[ArgumentParser]") -> None:
    """Add the commands to a parser's sub-commands."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure accuracy against budget, on your questions about pictures",
        description="Measure accuracy against budget: DivPrune beside its baselines. The same command again goes on "
        "where it was stopped. Needs the extra `plot`.",
    )
    add_model(evaluate)
    evaluate.add_argument("questions", metavar="QUESTIONS", type=Path, help="a JSON lines file")
    evaluate.add_argument(
        "--budgets",
        nargs="+",
        required=True,
        metavar="B",
        help="shares (0.098, 1.0) or numbers (64) of visual tokens, or shares of the language model's FLOPs (60%%)",
    )
    add_selectors(evaluate, BASELINES)
    positions = SETTINGS["positions"]
    evaluate.add_argument(
        "--positions",
        nargs="+",
        choices=positions.choices,
        default=[positions.default],
        metavar="P",
        help=f"some of {', '.join(positions.choices or ())}: where kept tokens stand ({positions.default})",
    )
    evaluate.add_argument(
        "--layers", nargs="+", type=int, default=[0], metavar="L", help="decoder layers in front of which to drop (0)"
    )
    evaluate.add_argument("--seeds", type=int, default=1, metavar="N", help="how many draws of `random` (1)")
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of this run")
    evaluate.add_argument("--batch-size", type=int, default=24, metavar="N", help="questions at a time (24)")
    evaluate.add_argument("--max-new-tokens", type=int, default=16, metavar="N", help="the longest answer (16)")
    add_place(evaluate)
    evaluate.add_argument("--dtype", default="auto", help="such as float32 or bfloat16; by default the checkpoint's")
    evaluate.set_defaults(run=run_evaluate)

    diversity = commands.add_parser(
        "diversity",
        help="draw what each selector keeps of pictures, and how far apart it is",
        description="Draw which visual tokens each selector keeps, by t-SNE, and the distances between the kept ones. "
        "Needs the extra `plot`.",
    )
    add_model(diversity)
    diversity.add_argument(
        "pictures", metavar="PICTURES", nargs="+", type=Path, help="picture files, or folders of them"
    )
    diversity.add_argument("--budget", default="0.098", metavar="B", help="a share (0.098) or a number of tokens (64)")
    add_selectors(diversity)
    diversity.add_argument("--seed", type=int, default=0, metavar="N", help="of the selector `random` and of t-SNE (0)")
    diversity.add_argument("--draw", type=int, default=1, metavar="N", help="how many pictures to draw by t-SNE (1)")
    diversity.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write into")
    add_place(diversity)
    diversity.set_defaults(run=run_diversity)

    nlvr = commands.add_parser(
        "nlvr-questions",
        help="make yes/no questions about number, place and presence from NLVR v1",
        description="Make a file of yes/no questions about number, place and presence for `divprune-hf evaluate`, from "
        "the pictures and the structured representation of NLVR v1 (CC-BY-4.0, https://github.com/lil-lab/nlvr).",
    )
    nlvr.add_argument("folder", metavar="NLVR", type=Path, help="the folder nlvr of that repository")
    nlvr.add_argument("out", metavar="OUT", type=Path, help="the folder to make")
    nlvr.add_argument("--split", default="dev", help="which pictures to ask about (dev)")
    nlvr.add_argument("--seed", type=int, default=0, metavar="N", help="of the questions (0)")
    nlvr.add_argument(
        "--form",
        default="Answer yes or no.",
        metavar="TEXT",
        help='what stands behind each question ("Answer yes or no.")',
    )
    nlvr.set_defaults(run=run_nlvr_questions)


def add_model(parser: ArgumentParser) -> None:
    """Add the argument that names the model."""
    parser.add_argument("model", metavar="MODEL", help="a stock base or a variant: a folder, or the id of a Hub repo")


def add_selectors(parser: ArgumentParser, baselines: Sequence[str] = ()) -> None:
    """Add the flag that names selectors, and methods beside them that make new features."""
    also = f", {', '.join(baselines)} (all but the last {len(baselines)})" if baselines else " (all)"
    parser.add_argument(
        "--selectors",
        nargs="+",
        choices=[*SELECTORS, *baselines],
        default=list(SELECTORS),
        metavar="S",
        help=f"some of {', '.join(SELECTORS)}{also}",
    )


def add_place(parser: ArgumentParser) -> None:
    """Add the flags that say where a model runs and where it comes from."""
    parser.add_argument("--device", help="such as cpu or cuda:0; by default wherever there is room")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub repo")


def run_evaluate(options: Namespace) -> None:
    """Measure accuracy, and print the tables."""
    from divprune_hf.evaluation.accuracy import AccuracyRun, measure_accuracy
    from divprune_hf.evaluation.report import accuracy_tables

    print(accuracy_tables(measure_accuracy(AccuracyRun(**values_of(options, AccuracyRun)))))


def run_diversity(options: Namespace) -> None:
    """Draw what is kept, and print the median distances."""
    from divprune_hf.evaluation.diversity import DiversityRun, measure_diversity

    report = measure_diversity(DiversityRun(**values_of(options, DiversityRun)))
    for name, median in report["medians"].items():
        print(f"{name}: median max-min distance {median:.4f}")


def run_nlvr_questions(options: Namespace) -> None:
    """Make the questions, and print how many there are."""
    from divprune_hf.evaluation.nlvr_spatial import write_questions

    number = write_questions(options.folder, options.out, split=options.split, seed=options.seed, form=options.form)
    print(f"{options.out / 'questions.jsonl'}: {number} questions")


def values_of(options: Namespace, kind: type) -> dict[str, Any]:
    """Return the options that a dataclass has fields for."""
    return {field.name: getattr(options, field.name) for field in fields(kind)}
