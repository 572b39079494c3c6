"""Helpers without opinion: text for terminals, Markdown, whole files, processes, the machine. They know no model."""
