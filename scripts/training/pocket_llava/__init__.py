"""pocket-llava: its scenes, its training, its held-out set and its card."""
