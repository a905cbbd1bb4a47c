"""Read, fetch and decode images and videos within a memory budget."""
