"""The store: the object store under one root, its keys, and its records."""
