"""Code shared by producers and workers: records, settings, the ledger, the store and the broker."""
