"""The application: listens for sign-ins and sign-outs as soon as Django is ready."""
from django.apps import AppConfig


class Project(AppConfig):
    name = "project"

    def ready(self):
        from . import presence  # noqa: F401, it connects its receivers
