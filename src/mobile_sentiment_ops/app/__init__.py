"""The doors: the HTTP server and the three handlers that every shell calls."""
