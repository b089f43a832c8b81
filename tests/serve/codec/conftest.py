"""Random tests here have no deadline (the machines are shared and slow at times) and leave no files behind."""

from hypothesis import settings

settings.register_profile("codec", deadline=None, database=None)
settings.load_profile("codec")
