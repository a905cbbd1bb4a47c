"""Recovery: keep leases alive, take over the chunks of dead workers, detect stalls."""
