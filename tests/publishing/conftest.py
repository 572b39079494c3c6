"""The fixtures of these tests, which those of `tests/adversarial` use too."""

from tests.helpers.hub_fixtures import base, converted, hub, running_hub, sharded_base, variant  # noqa: F401
