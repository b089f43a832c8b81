"""AWS's protocols, read from the data files of botocore: bytes of a call to checked parameters, and a reply back to bytes."""
