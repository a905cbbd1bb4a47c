"""Datasets: one reader per file format, and one conversion from a row to a ``Sample`` for all formats.

``read_dataset`` streams a dataset's samples in file order. A reader (``readers/``, ``registry.register_reader``) turns a file
into rows; ``rows.to_sample`` turns a row into a sample, with its identity, question kind, group and fault.
"""

from producer.datasets.readers import (
    arrow_table,
    coco,
    csv_table,
    huggingface,
    image_folder,
    json_file,
    jsonl,
    realhitbench,
    results_file,
    vlmeval_tsv,
    webdataset,
)
from producer.datasets.registry import read_dataset

# Importing the readers registers their formats.
__all__ = [
    "arrow_table",
    "coco",
    "csv_table",
    "huggingface",
    "image_folder",
    "json_file",
    "jsonl",
    "read_dataset",
    "realhitbench",
    "results_file",
    "vlmeval_tsv",
    "webdataset",
]
