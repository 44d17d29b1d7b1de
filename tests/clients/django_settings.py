"""The settings of docs/django with a fast password hash, and patience. The default hash takes half a second of CPU per
sign-in, and by default Django gives up when a table is locked for five seconds, as on a busy disk."""
from project.settings import *  # noqa: F403

DATABASES["default"]["OPTIONS"] = {"timeout": 120}  # noqa: F405
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
