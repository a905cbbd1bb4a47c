"""The producer plans and enqueues runs, tells how far they are, collects their outcomes and scores them."""
