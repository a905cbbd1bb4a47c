"""The captioning example: one short description for each shape image of a set of documents."""
