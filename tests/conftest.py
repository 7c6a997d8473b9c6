"""What all tests share."""

from hypothesis import settings

# An example that takes long on a machine in other use is no fault.
settings.register_profile("loupe", deadline=None)
settings.load_profile("loupe")
