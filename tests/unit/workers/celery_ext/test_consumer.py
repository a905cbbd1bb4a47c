"""The consumer survives connection faults that end Celery's consumer."""

import warnings

import pytest

from workers.app import app
from workers.celery_ext.consumer import Consumer


class HalfClosed:
    """A connection without a transport. kombu leaves this state if a connection breaks while messages are in flight."""

    connection_errors = (ConnectionError,)
    channel_errors = ()
    transport = None

    def collect(self, **_: float) -> None:
        raise ConnectionError("Connection refused")

    def close(self) -> None:
        raise AttributeError("'NoneType' object has no attribute 'hostname'")


@pytest.fixture
def consumer() -> Consumer:
    made: Consumer = Consumer.__new__(Consumer)  # the constructor needs a worker; the tested method needs two fields
    made.app = app
    made.connection = HalfClosed()
    return made


def test_failed_close_does_not_stop_the_worker(consumer: Consumer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Celery warns about a default that does not affect early acknowledgement
        consumer.on_connection_error_after_connected(ConnectionError("cut"))
    assert consumer.connection is None  # Celery then reconnects
