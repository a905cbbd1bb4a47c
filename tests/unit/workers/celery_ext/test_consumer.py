"""Our consumer survives connection faults that end Celery's own consumer."""

import warnings

import pytest

from workers.app import app
from workers.celery_ext.consumer import Consumer


class HalfClosed:
    """A connection without a transport, as kombu leaves one that broke while messages were in flight."""

    connection_errors = (ConnectionError,)
    channel_errors = ()
    transport = None

    def collect(self, **_: float) -> None:
        raise ConnectionError("Connection refused")

    def close(self) -> None:
        raise AttributeError("'NoneType' object has no attribute 'hostname'")


@pytest.fixture
def consumer() -> Consumer:
    made: Consumer = Consumer.__new__(Consumer)  # the constructor needs a whole worker; the tested method needs two fields
    made.app = app
    made.connection = HalfClosed()
    return made


def test_failed_close_of_connection_keeps_worker_running(consumer: Consumer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Celery warns of a new default that does not matter with early acknowledgement
        consumer.on_connection_error_after_connected(ConnectionError("cut"))
    assert consumer.connection is None  # so that Celery connects again
