"""The page ``docs/reference.md``, generated from the descriptions in the source."""
