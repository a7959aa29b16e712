"""Two processes for the tests that need them."""

from __future__ import annotations

import os

import pytest

from tests.modality import two_processes

PORT = 28_500 + os.getpid() % 1000


@pytest.fixture(scope="session")
def ranks_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gloo")


@pytest.fixture(scope="session")
def ranks(ranks_folder):
    """What each of two processes computed, by test module."""
    return two_processes.start(str(ranks_folder), PORT)


@pytest.fixture(scope="session")
def free_port():
    return PORT + 1000
