"""Export the answers of a run in the formats of other tools. Each format has one module with one writer.

``registry.FORMATS`` lists the formats. ``rows`` reads the rows of a run with their outcomes, and ``names`` names the file of a row.
"""
