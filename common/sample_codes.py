"""The error codes of failed samples, and advice to the user for each code.

Outcomes, parts and reports store the codes as text, so a code must never be renamed.
"""

from collections.abc import Mapping
from enum import StrEnum


class SampleCode(StrEnum):
    """The reason why a sample failed. Every ``SampleError`` has one of these codes. ``docs/reference.md`` shows the comments."""

    BAD_FIELD = "bad_field"  # a field of the row has a wrong type or content
    BAD_MEDIA = "bad_media"  # the row does not name its media in a known form
    BAD_ROW = "bad_row"  # the row cannot be read
    CONTENT_FILTER = "content_filter"  # the content filter of an endpoint refused the request or withheld the answer
    ENGINE_CRASHED = "engine_crashed"  # the sample ended the engine's process, even when it ran alone
    ENGINE_FAILED = "engine_failed"  # the engine or the endpoint failed while it answered
    ENGINE_REJECTED = "engine_rejected"  # the engine or the endpoint does not accept the request
    MEDIA_CHANGED = "media_changed"  # the content of a media file has changed since the run was planned
    MEDIA_CORRUPT = "media_corrupt"  # a media file is empty, damaged or of an unknown type
    MEDIA_FORBIDDEN = "media_forbidden"  # a media file or address is outside the permitted folders and addresses
    MEDIA_MISSING = "media_missing"  # a media file does not exist
    MEDIA_TOO_LARGE = "media_too_large"  # an image or video is larger than the limits allow
    MEDIA_UNREADABLE = "media_unreadable"  # a media file or address cannot be read
    MEDIA_UNSUPPORTED = "media_unsupported"  # the worker cannot read media of this form
    MISSING_QUESTION = "missing_question"  # the row has no question
    OUT_OF_MEMORY = "out_of_memory"  # the sample alone does not fit into the memory of the GPU
    REFUSED = "refused"  # the endpoint reports that the model declined to answer
    TOO_LONG = "too_long"  # the prompt does not fit into the context of the model
    TURN_UNANSWERED = "turn_unanswered"  # no attempt gave a complete answer to an earlier turn, so the last turn was not asked
    UNEXPECTED_ERROR = "unexpected_error"  # an error that the fleet does not expect


_ROW_AT_FAULT = "correct the row; its error_message names the field"
# The keys are text: parts of earlier versions may contain codes that are no longer in use.
ADVICE: Mapping[str, str] = {
    SampleCode.BAD_FIELD: _ROW_AT_FAULT,
    SampleCode.BAD_MEDIA: _ROW_AT_FAULT,
    SampleCode.BAD_ROW: _ROW_AT_FAULT,
    SampleCode.CONTENT_FILTER: "the endpoint's filter blocked these samples; change the rows, or use another endpoint",
    SampleCode.ENGINE_CRASHED: "these samples crash the engine; check what they have in common",
    SampleCode.ENGINE_FAILED: "see the samples' error_message; try again with producer resume RUN --retry failed",
    SampleCode.ENGINE_REJECTED: "see the samples' error_message",
    SampleCode.MEDIA_CHANGED: "restore the files, then retry the samples; or enqueue again, which is a new run with the new files",
    SampleCode.MEDIA_CORRUPT: "replace the files and enqueue again",
    SampleCode.MEDIA_FORBIDDEN: (
        "put the files under the dataset's folder, or set media_root, or FLEET_MEDIA_ROOTS on the workers"
    ),
    SampleCode.MEDIA_MISSING: "check the paths in the dataset, or set media_root",
    SampleCode.MEDIA_TOO_LARGE: "scale the images or videos down",
    SampleCode.MEDIA_UNREADABLE: "check the paths and their permissions",
    SampleCode.MEDIA_UNSUPPORTED: "use files or inline media; for videos, run pip install 'vlm-fleet[video]' on the workers",
    SampleCode.MISSING_QUESTION: _ROW_AT_FAULT,
    SampleCode.OUT_OF_MEMORY: "the sample did not fit into memory even when it ran alone; lower max_tokens",
    SampleCode.REFUSED: "the model declined to answer; change the prompt, or use another model",
    SampleCode.TOO_LONG: "shorten the prompts, use fewer or smaller images, or a model with a longer context",
    SampleCode.TURN_UNANSWERED: "raise max_tokens; the samples' error_message names the turn",
    SampleCode.UNEXPECTED_ERROR: "a bug in vlm-fleet; see the worker's log and report it",
}
