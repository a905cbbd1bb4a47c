"""Fixtures of all tests live in ``tests/support``, one file a service."""

import hypothesis

pytest_plugins = ["tests.support.servers.redis_server", "tests.support.servers.s3_server", "tests.support.fleet"]

# The same examples on every machine, and no judgement by the clock.
hypothesis.settings.register_profile("fleet", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fleet")
