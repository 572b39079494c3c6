"""The figures on a card: counted ones, the paper's, and measured ones, each marked as such."""

from statistics import mean
from types import SimpleNamespace

from divprune_hf.cards.flops import prompt_flops
from divprune_hf.cards.variants import Variant
from divprune_hf.common.markdown import markdown_table
from divprune_hf.remote_code.budget import keep_count
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig


def figures(row: Variant | None, divprune_config: DivPruneConfig) -> str:
    """Return the section of a card with the figures, in Markdown.

    Args:
        row: the row of the base in the table, if it has one.
        divprune_config: the variant's own settings, which may differ from those in the table.
    """
    if row is None:
        return "Not measured."
    return "\n\n".join([counted(row, divprune_config), papers(row), ours(row)])


def counted(row: Variant, divprune_config: DivPruneConfig) -> str:
    """Return the table of tokens and FLOPs, which need no measurement."""
    full, kept, full_flops, kept_flops, ratio = token_counts(row, divprune_config)
    unit, scale = ("TFLOP", 1e12) if full_flops > 1e11 else ("GFLOP", 1e9)
    what = row.counted
    rows = [
        [f"visual tokens per {what}", full, kept],
        [f"prefill of the language model, {unit}", f"{full_flops / scale:.2f}", f"{kept_flops / scale:.2f}"],
        ["the same, as a share", "100%", f"{ratio:.1%}"],
    ]
    note = (
        f"Counted with `divprune_hf.cards.flops`, the FLOP model of the paper, {row.prompts}; the vision "
        "tower and the selection are not in it."
    )
    return f"{markdown_table(['', 'all tokens', 'this variant'], rows)}\n\n{note}"


def token_counts(row: Variant, divprune_config: DivPruneConfig) -> tuple[str, str, float, float, float]:
    """Return the mean visual tokens before and after pruning, the mean FLOPs, and the mean of the FLOPs' ratios."""
    sizes = SimpleNamespace(**row.language_model)
    budget = divprune_config.video_budget if row.counted == "video" else divprune_config.budget
    kept = [keep_count(available, **budget) for available in row.visual_tokens]
    before = [prompt_flops(sizes, *tokens) for tokens in zip(row.text_tokens, row.visual_tokens)]
    after = [prompt_flops(sizes, *tokens) for tokens in zip(row.text_tokens, row.visual_tokens, kept)]
    ratio = mean(pruned / full for pruned, full in zip(after, before))
    return average(row.visual_tokens), average(kept), mean(before), mean(after), ratio


def average(counts: list[int]) -> str:
    """Return the mean of some counts, marked as an average unless they are equal."""
    mark = "" if len(set(counts)) == 1 else " on average"
    return f"{mean(counts):,.0f}{mark}"


def papers(row: Variant) -> str:
    """Return the table of the paper's figures, or a sentence that there are none."""
    if row.paper is None:
        return "**The paper's figures:** none; the paper (arXiv 2503.02175) does not evaluate this model."
    scores = {name: pair for name, pair in row.paper.items() if name != "title"}
    header = ["", *scores]
    rows = [
        ["all tokens", *(pair[0] for pair in scores.values())],
        ["DivPrune", *(pair[1] for pair in scores.values())],
    ]
    return (
        f"**The paper's figures** for {row.paper['title']} (arXiv 2503.02175; its authors' measurements with their "
        f"code, not ours):\n\n{markdown_table(header, rows)}"
    )


def ours(row: Variant) -> str:
    """Return the table of measured figures, with script, hardware and date."""
    if row.measured is None:
        return "**Our figures:** not measured."
    rows = [[name, *pair] for name, pair in row.measured["rows"].items()]
    made = f"`{row.measured['script']}`, {row.measured['hardware']}, {row.measured['date']}"
    return f"**Our figures** ({made}):\n\n{markdown_table(['', 'all tokens', 'this variant'], rows)}"
