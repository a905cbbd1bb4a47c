"""The error codes of failed samples, and advice to the user for each code.

Outcomes, parts and reports store the codes as text, so a code must never be renamed.
"""

from collections.abc import Mapping
from enum import StrEnum


class SampleCode(StrEnum):
    """The reason why a sample failed. Every ``SampleError`` has one of these codes."""

    BAD_FIELD = "bad_field"
    BAD_MEDIA = "bad_media"
    BAD_ROW = "bad_row"
    CONTENT_FILTER = "content_filter"
    ENGINE_CRASHED = "engine_crashed"
    ENGINE_FAILED = "engine_failed"
    ENGINE_REJECTED = "engine_rejected"
    MEDIA_CHANGED = "media_changed"
    MEDIA_CORRUPT = "media_corrupt"
    MEDIA_FORBIDDEN = "media_forbidden"
    MEDIA_MISSING = "media_missing"
    MEDIA_TOO_LARGE = "media_too_large"
    MEDIA_UNREADABLE = "media_unreadable"
    MEDIA_UNSUPPORTED = "media_unsupported"
    MISSING_QUESTION = "missing_question"
    OUT_OF_MEMORY = "out_of_memory"
    REFUSED = "refused"
    TOO_LONG = "too_long"
    UNEXPECTED_ERROR = "unexpected_error"


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
    SampleCode.UNEXPECTED_ERROR: "a bug in vlm-fleet; see the worker's log and report it",
}
