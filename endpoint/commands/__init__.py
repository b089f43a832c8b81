"""The verbs of `evenkeel endpoint`, a file each."""
