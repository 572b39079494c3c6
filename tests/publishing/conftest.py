"""Fixtures: bases that a test may change."""

import shutil

import pytest


@pytest.fixture
def base(make_checkpoint, tmp_path):
    """A stock checkpoint of this test's own."""
    return shutil.copytree(make_checkpoint().base, tmp_path / "base")


@pytest.fixture
def sharded_base(make_checkpoint, tmp_path):
    """The same with its weights in three files and an index."""
    return shutil.copytree(make_checkpoint(num_shards=3).base, tmp_path / "base")
