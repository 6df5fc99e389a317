"""What the server does for its users."""
