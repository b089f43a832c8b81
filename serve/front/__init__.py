"""The HTTP worker. Start reading in invocation.py; protocol.py brings it the bytes, links.py takes them to engines."""
