"""Print ``docs/reference.md``: ``python -m tests.support.reference > docs/reference.md``."""

import sys

from tests.support.reference.page import make_page

sys.stdout.write(make_page())
