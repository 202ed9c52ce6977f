"""Shared machines are slow at times: no property test here fails for the time that one example takes."""

from hypothesis import settings

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
