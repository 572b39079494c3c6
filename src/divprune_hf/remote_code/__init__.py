"""Everything that ships into a model repo, and nothing else: flat, self-contained, importing only its siblings."""
