"""Files of every format we know, read by a process of their own into passages."""
