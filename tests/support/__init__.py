"""Fakes and benches that several test folders share. Named by what they stand in for."""
