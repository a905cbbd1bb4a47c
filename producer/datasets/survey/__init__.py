"""Survey a dataset before planning, in one pass over its rows.

The survey finds:

- the digest of the content of media files,
- the question kind of rows without options,
- columns that no field uses, but that look like media, options, the target or the question,
- markers without media.

Files that a row names by path can change in place. Up to a limit, their content counts in the run id. Above the limit, they count
by path only, and a log event reports this. The size and time of a file never count, because they are not its content.
"""

from producer.datasets.survey.notices import Notice
from producer.datasets.survey.survey import Survey, survey_dataset, survey_specs

__all__ = ["Notice", "Survey", "survey_dataset", "survey_specs"]
