"""The table of workloads: each is sent to evenkeel, to its peers and to what limits them, in turn."""
