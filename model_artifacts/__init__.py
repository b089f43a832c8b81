"""Small real models to serve, and the scripts that make them. Nothing under serve/ imports this."""
