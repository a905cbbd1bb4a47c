"""Export the answers of a run in the formats of other tools. Each format has one module with one writer.

``registry.FORMATS`` lists the formats, and ``names`` names the file of a row.
"""
