"""Model cards: the table of variants, the template, the figures, the FLOP model."""
