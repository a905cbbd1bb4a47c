"""Datasets: one reader per file format, and one conversion from a row to a ``Sample`` for all formats.

``read_dataset`` streams a dataset's samples in file order. A reader (``readers/``, ``registry.register_reader``) turns a file
into rows; ``rows.to_sample`` turns a row into a sample, with its identity, question kind, group and fault.
"""

from producer.datasets.readers import arrow_table, csv_table, json_file, jsonl, vlmeval_tsv
from producer.datasets.registry import read_dataset

# Importing these modules registers their formats.
__all__ = ["arrow_table", "csv_table", "json_file", "jsonl", "read_dataset", "vlmeval_tsv"]
