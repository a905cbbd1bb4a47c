"""The readers: each module turns files of one format into rows."""
