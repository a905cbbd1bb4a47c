"""The store: the object store under one root, its keys, and the records that lie in it."""
