"""Datasets: one reader per file format, and one conversion from a row to a ``Sample`` for all formats.

``read_dataset`` streams a dataset's samples in file order. A reader (``registry.register_reader``) turns files into rows:
``readers/`` for single tables, ``collections/`` for folders, tars and datasets of several files. ``samples.to_sample`` turns a row
into a sample, with its identity, question kind, group and fault.
"""

from producer.datasets.collections import coco, huggingface, image_folder, realhitbench, results_file, webdataset
from producer.datasets.readers import arrow_table, csv_table, json_file, jsonl, vlmeval_tsv
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
