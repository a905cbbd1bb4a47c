"""What producers and workers share: records, settings, the ledger, the store and the broker."""
