"""Accuracy against budget, and pictures of what is kept, for any model and any questions about pictures."""
