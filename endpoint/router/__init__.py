"""The router: a process that takes invocations on a port of its own, and hands each to an instance by its table of routes."""
