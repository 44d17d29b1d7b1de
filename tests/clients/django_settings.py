"""The settings of docs/django with a fast password hash. The default takes half a second of CPU per sign-in."""
from project.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
