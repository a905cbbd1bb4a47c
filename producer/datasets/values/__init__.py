"""Convert the values of fields with several forms: literals in tables, options with targets, and conversations."""
