"""The values of fields that have several forms: literals of tables, options with targets, and conversations."""
