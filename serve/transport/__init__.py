"""Where front and engine meet: slots in shared memory, fixed records on a Unix socket. See descriptor.py first."""
