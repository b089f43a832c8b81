"""The HTTP worker. Start reading in invocations.py; protocol.py brings it the bytes, engine_channel.py takes them to engines."""
