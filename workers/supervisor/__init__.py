"""The supervisor: the parent process that places one worker on each GPU, starts it, monitors it and restarts it."""
