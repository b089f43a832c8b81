"""The HTTP worker. Start reading in request/invocations.py; http/ brings it the bytes, routing/ takes them to engines."""
