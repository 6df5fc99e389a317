"""One file per wire: who answers, and in which format."""
