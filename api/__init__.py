"""Front doors: how others talk to the server."""
