"""Export the answers of a run in a format of other tools: one module with one writer for each format.

``registry.FORMATS`` lists the formats. ``rows`` reads the rows of a run with their outcomes, and ``names`` names the file of a row.
"""
