"""The fixtures of these tests, which are those of `tests/publishing`."""

from tests.helpers.hub_fixtures import base, converted, hub, running_hub, sharded_base, variant  # noqa: F401
