"""Print ``docs/bad-input.md``: ``python -m tests.support.faults.bad_input > docs/bad-input.md``."""

import sys

from tests.support.faults.bad_input.page import make_page

sys.stdout.write(make_page())
