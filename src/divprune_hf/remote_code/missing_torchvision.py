# SPDX-License-Identifier: Apache-2.0
"""Families that take videos, where torchvision is missing: pictures work, and videos say what to install."""


class MissingVideoProcessor:
    """Stand-in for the video processor, which transformers cannot make without torchvision."""

    model_input_names: list[str] = []


def why_no_torchvision() -> Exception | None:
    """Return the error of importing torchvision, None if there is none."""
    try:
        import torchvision  # type: ignore[import-untyped]  # noqa: F401  # it has no types
    except (ImportError, RuntimeError, OSError) as error:
        # RuntimeError ("operator torchvision::nms does not exist"): a wheel that was built for another torch.
        return error
    return None


def check_torchvision() -> None:
    """Raise an `ImportError` that says what to install where torchvision is missing."""
    error = why_no_torchvision()
    if error is not None:
        raise ImportError(
            f"Videos need a torchvision that fits torch ({error}). Install both together: "
            "pip install -U torch torchvision"
        ) from error
