"""Errors, sorted by who must act on them.

Each class has a stable ``code``, which outcomes and logs carry, and the ``exit_code`` of a command that it ends.  Sample
faults become outcomes, chunk faults are exceptions, machine faults end the process.
"""

from common.exit_codes import NOT_ALL_OK, UNREACHABLE, USER_MUST_ACT


class FleetError(Exception):
    """Root of every error this project raises on purpose."""

    code = "fleet_error"
    exit_code = NOT_ALL_OK


class ConfigError(FleetError):
    """The user must change something; never retried.  The message names file, field and what was expected."""

    code = "config_error"
    exit_code = USER_MUST_ACT


class SampleError(FleetError):
    """One row is at fault.  Becomes that sample's ``failed`` outcome inside ``workers/execution/sample.py`` and never leaves it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class OutOfMemory(SampleError):
    """The accelerator's memory did not hold even a batch of one sample.  The engine goes on, so it is the sample's fault."""

    code = "out_of_memory"

    def __init__(self, message: str) -> None:
        super().__init__(OutOfMemory.code, message)


class TransientError(FleetError):
    """Nobody is at fault and waiting helps: a service is away, a rate limit was hit.  Retried with backoff."""

    code = "transient_error"


class ServiceUnreachable(TransientError):
    """Redis or the store does not answer at all; commands end with exit code 3."""

    code = "service_unreachable"
    exit_code = UNREACHABLE


class EngineError(FleetError):
    """The machine is at fault: the engine crashed or stopped.  The worker exits and its leases expire."""

    code = "engine_error"


class LeaseLost(FleetError):
    """Another worker holds the chunk now, or the run is gone.  Stop quietly."""

    code = "lease_lost"


class IntegrityError(FleetError):
    """Stored evidence contradicts itself: an engineer must look.  Names the samples or the object."""

    code = "integrity_error"
