"""The parent process: it places one worker on each GPU, starts it, watches it and restarts it."""
