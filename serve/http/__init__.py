"""HTTP/1.1 connections, for the data port and the sidecar's ports alike."""
