"""What Celery's consumer must survive beyond what Celery itself does."""

import warnings

import pytest

from workers.app import app
from workers.celery_ext.consumer import Consumer


class HalfClosed:
    """A connection whose own end of it is gone already, as kombu leaves one that was cut while messages were in flight."""

    connection_errors = (ConnectionError,)
    channel_errors = ()
    transport = None

    def collect(self, **_: float) -> None:
        raise ConnectionError("Connection refused")

    def close(self) -> None:
        raise AttributeError("'NoneType' object has no attribute 'hostname'")


@pytest.fixture
def consumer() -> Consumer:
    made: Consumer = Consumer.__new__(Consumer)  # what Celery builds needs a whole worker; this method needs two fields
    made.app = app
    made.connection = HalfClosed()
    return made


def test_a_connection_that_cannot_even_be_closed_does_not_end_the_worker(consumer: Consumer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Celery announces a change of a default that does not matter with early acknowledgement
        consumer.on_connection_error_after_connected(ConnectionError("cut"))
    assert consumer.connection is None  # so that Celery connects anew
