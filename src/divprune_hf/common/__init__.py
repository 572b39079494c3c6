"""Helpers without opinion: text for terminals, Markdown, whole files, the machine. They import nothing of ours."""
