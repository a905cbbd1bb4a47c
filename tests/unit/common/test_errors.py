"""Error classes and the codes that outcomes store."""

from common.errors import EngineError, OutOfMemory, SampleError


def test_out_of_memory_is_a_sample_error() -> None:
    error = OutOfMemory("too big")
    assert isinstance(error, SampleError)
    assert not isinstance(error, EngineError)
    assert (error.code, OutOfMemory.code, str(error)) == ("out_of_memory", "out_of_memory", "too big")


def test_sample_error_has_code_and_message() -> None:
    assert (SampleError("bad_row", "no id").code, str(SampleError("bad_row", "no id"))) == ("bad_row", "no id")
