"""Who hears: the same work by an API or by this machine."""
