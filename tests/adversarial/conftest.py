"""Fixtures of the tests with a hostile Hub, which share one client process."""

from tests.helpers.hostile_session import hostile_session, lean  # noqa: F401 (fixtures)
