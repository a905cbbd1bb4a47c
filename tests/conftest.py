"""Fixtures of all tests live in ``tests/support``, one file a service."""

pytest_plugins = ["tests.support.redis_server", "tests.support.s3_server", "tests.support.fleet"]
