"""The figures on a card: what is counted, what the paper reports, and what we measured, each marked as such."""

from statistics import mean
from types import SimpleNamespace

from divprune_hf.cards.flops import prompt_flops
from divprune_hf.common.markdown import markdown_table
from divprune_hf.remote_code.budget import keep_count


def figures(row, divprune_config) -> str:
    """The section of a card, in Markdown.

    Args:
        row (`Variant` or `None`): the table's row of the base.
        divprune_config (`DivPruneConfig`): the variant's own budget, which may differ from the table's.
    """
    if row is None:
        return "Not measured."
    return "\n\n".join([counted(row, divprune_config), papers(row), ours(row)])


def counted(row, divprune_config):
    """Tokens and FLOPs, which need no measurement."""
    full, kept, full_flops, kept_flops, ratio = token_counts(row, divprune_config)
    unit, scale = ("TFLOP", 1e12) if full_flops > 1e11 else ("GFLOP", 1e9)
    what = "video" if row.takes_videos else "image"
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


def token_counts(row, divprune_config):
    """Mean visual tokens before and after, mean FLOPs before and after, and the mean of their ratios."""
    sizes = SimpleNamespace(**row.language_model)
    budget = divprune_config.video_budget if row.takes_videos else divprune_config.budget
    kept = [keep_count(available, **budget) for available in row.visual_tokens]
    before = [prompt_flops(sizes, *tokens) for tokens in zip(row.text_tokens, row.visual_tokens)]
    after = [prompt_flops(sizes, *tokens) for tokens in zip(row.text_tokens, row.visual_tokens, kept)]
    ratio = mean(pruned / full for pruned, full in zip(after, before))
    return average(row.visual_tokens), average(kept), mean(before), mean(after), ratio


def average(counts):
    mark = "" if len(set(counts)) == 1 else " on average"
    return f"{mean(counts):,.0f}{mark}"


def papers(row):
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


def ours(row):
    if row.measured is None:
        return "**Our figures:** not measured."
    rows = [[name, *pair] for name, pair in row.measured["rows"].items()]
    made = f"`{row.measured['script']}`, {row.measured['hardware']}, {row.measured['date']}"
    return f"**Our figures** ({made}):\n\n{markdown_table(['', 'all tokens', 'this variant'], rows)}"
