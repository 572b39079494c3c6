"""Packages of the optional extras."""

from importlib.util import find_spec


PLOT_PACKAGES = {"matplotlib": "matplotlib", "sklearn": "scikit-learn"}  # module -> what pip installs


def check_plot_packages(command: str, *modules: str) -> None:
    """Raise a `ValueError` where a module that `command` draws with is not installed."""
    for module in modules:
        if find_spec(module) is None:
            raise ValueError(f"{command} needs {PLOT_PACKAGES[module]}: pip install 'divprune-hf[plot]'")
