"""The section of pocket-llava's model card about its training: measured figures only."""

from pathlib import Path

from divprune_hf.common.whole_file import write_whole
from scripts.training.pocket_llava.evidence import pruned_section
from scripts.training.pocket_llava.scenes import SINGULAR


ROOT = Path(__file__).resolve().parents[3]
DETAILS = ROOT / "src" / "divprune_hf" / "cards" / "assets" / "pocket-llava.md"
CARD = """## The base: pocket-llava

A tiny LLaVA with real, trained weights: {parameters:.2f} million parameters, {megabytes:.1f} MB of float32, in the
stock `LlavaForConditionalGeneration` layout. It comes with the package, in `model_cards/pocket-llava`. It answers plain
questions about scenes of small Fashion-MNIST pictures. With it, visual token pruning can be tried, measured and looked
at on any laptop, without a download.

**The scenes were designed for this.** Two to eight small objects (2 x 2 of the 16 x 16 patches each) lie on varied,
mostly empty backgrounds. Most of the 256 visual tokens are therefore redundant by construction. The cost of pruning
here says nothing about its cost for a large model on photographs.

It knows three kinds of questions, in these words:

- presence: "Is there a bag?" ("yes" / "no"),
- position: "What is in row 2 column 3?" ("a bag" / "nothing"),
- counting: "How many objects are there?", "How many bags are there?" (a number).

A scene is a grid of 4 rows and 4 columns. The tokenizer reads "row 2 column 3" as one word.

The objects: {objects}. ("A boot" is Fashion-MNIST's "Ankle boot".)

### Measured, with all visual tokens

The pictures of the held-out scenes come from Fashion-MNIST's test split. The scenes were scored once, with all 256
visual tokens and greedy decoding, through the stock transformers classes:
`scripts/training/pocket_llava/train.py` on {hardware}, {date}.

| Held-out questions | Number | Right |
|---|---|---|
| presence (half "yes", half "no" for every object) | {presence_questions} | **{presence:.1%}** |
| - answer "yes" | | {presence_yes:.1%} |
| - answer "no" | | {presence_no:.1%} |
| control: always "no" | {presence_questions} | {always_no:.1%} |
| control: the pictures shuffled among the questions | {presence_questions} | {shuffled_pictures:.1%} |
| position (half about filled, half about empty cells) | {position_questions} | {position:.1%} |
| - filled cells | | {position_filled:.1%} |
| - empty cells (answer "nothing") | | {position_empty:.1%} |
| counting | {counting_questions} | {counting:.1%} |
| - all objects | | {counting_all:.1%} |
| - one class | | {counting_class:.1%} |

Presence by object: {per_class}.

{pruned}
### Training

Everything was trained from random weights by `scripts/training/pocket_llava/train.py` on {hardware}, without other
data and without pretrained weights. Training, validation and held-out scenes share no picture. Training and validation
scenes divide the train split of Fashion-MNIST between them ({validation_pictures} pictures for validation). Held-out
scenes use the test split. Every choice was made on validation scenes.

{stages}

Two measures were needed to learn this fast. The first layers of the Llama start with queries equal to keys, so that a
noun attends to patches like it. In training, the three words before the answer ("?", "ASSISTANT" and the word asked
about) have to name the answer as well. Neither changes the architecture, which is stock.

No stage saw a prompt pruned by DivPrune. But the language model has seen shorter scenes. In the last stage, up to its
last quarter, every other batch left out a random part of the background patches, and never a patch of an object. They
were chosen from the scene's plan, not by a pruning rule. The last quarter saw all 256 tokens. Before this stage the
answers depended on the number and order of the visual tokens, and pruned validation scenes were answered much worse.
(The first tower stage drops background patches at the tower's input too, only to be faster.)

The model: a CLIP tower (128 wide, 5 layers, CLS token, patch 14, 224 pixels; `vision_feature_layer=-2`, so the last
layer is never read and stays untrained), LLaVA's two-layer projector, and a Llama (128 wide, 6 layers, 4 heads of 32,
2 key-value heads) over a vocabulary of {vocabulary} words.

### Its limits

- It is a toy: it knows these objects, these scenes and these sentences, and nothing else. Other words become `<unk>`.
  Photographs get an answer, but not a meaningful one.
- The scenes leave out Fashion-MNIST's label "Shirt". At 28 x 28 pixels shirts are easily taken for T-shirts, pullovers
  and coats, and these mistakes would hide what the model is meant to show.
- Presence is the question it was made for. A presence answer is wrong about once in {once_in:.0f} times.
- Position answers depend on the order of all 256 visual tokens. Pruning closes up the places of the kept tokens in the
  sequence, and position answers are then mostly wrong. Counting suffers too. Presence does not depend on the order.

### Examples

`examples/` holds twelve held-out scenes with questions and right answers (`questions.json`). They were drawn by seed,
whether or not the model answers them.

### Pictures

Fashion-MNIST is by Zalando SE, under the MIT licence (Debian package `dataset-fashion-mnist`). The pictures in
`examples/` are composed from it.
"""


def stage_line(name: str, stage: dict) -> str:
    """Return one stage of the training as an item of a list."""
    figures = ", ".join(f"{key} {value:.1%}" for key, value in stage["validation"].items())
    validation = f" Validation afterwards: {figures}." if figures else ""
    return f"- {name}: {stage['what']} {stage['steps']} steps, {stage['minutes']:.0f} min.{validation}"


def write_card(held_out: dict, stages: dict[str, dict], facts: dict) -> None:
    """Write DETAILS, a section of the card: held-out figures, the stages' own records, facts about the model."""
    objects = ", ".join(SINGULAR)
    per_class = ", ".join(f"{name} {share:.1%}" for name, share in held_out["per_class"].items())
    lines = "\n".join(stage_line(name, stage) for name, stage in stages.items())
    figures = {
        **held_out,
        **facts,
        "per_class": per_class,
        "objects": objects,
        "stages": lines,
        "pruned": pruned_section(),
    }
    wrong = max(1 - held_out["presence"], 1e-3)
    write_whole(DETAILS, CARD.format(**figures, once_in=1 / wrong))
